// NumericGuard: what is left out, what ends a run, and that a checkpoint carries its state on.
#include "train/numeric_guard.h"

#include <cmath>

#include "support/catch.h"
#include "support/message_of.h"

using namespace lema;
using Verdict = NumericGuard::Verdict;

namespace {

RunConfig::Guard limits(const char* nonfinite, double zscore, int64_t max_skips) {
  return {nonfinite, zscore, max_skips};
}

// Losses that vary by a little.
void settle(NumericGuard& guard, int steps) {
  std::string reason;
  for (int i = 0; i < steps; ++i)
    REQUIRE(guard.judge(2 + 0.1 * (i % 3), 1, reason) == Verdict::Update);
}

}  // namespace

TEST_CASE("numeric guard: what is not finite ends the run, or is left out so often") {
  for (const double bad : {double{NAN}, double{INFINITY}, -double{INFINITY}}) {
    std::string reason;
    NumericGuard stops(limits("stop", 0, 10));
    CHECK(stops.judge(bad, 1, reason) == Verdict::Stop);
    CHECK(stops.judge(1, bad, reason) == Verdict::Stop);
    NumericGuard skips(limits("skip", 0, 2));
    CHECK(skips.judge(bad, 1, reason) == Verdict::Skip);
    CHECK(skips.judge(1, bad, reason) == Verdict::Skip);
    CHECK(skips.judge(1, 1, reason) == Verdict::Update);
    CHECK(skips.judge(bad, 1, reason) == Verdict::Skip);
    CHECK(skips.judge(bad, 1, reason) == Verdict::Skip);
    CHECK(skips.judge(bad, 1, reason) == Verdict::Stop);
    CHECK(reason.find("guard.max_skips is 2") != std::string::npos);
    CHECK(skips.skipped() == 5);
  }
}

TEST_CASE("numeric guard: a spike is left out and does not move what it is measured by") {
  std::string reason;
  NumericGuard guard(limits("stop", 6, 3));
  CHECK(guard.judge(50, 1, reason) == Verdict::Update);  // the first says nothing yet
  guard = NumericGuard(limits("stop", 6, 3));
  settle(guard, 60);
  const double before = guard.to_value().find("mean")->as_number();
  CHECK(guard.judge(9, 1, reason) == Verdict::Skip);
  CHECK(reason.find("standard deviations above") != std::string::npos);
  CHECK(guard.to_value().find("mean")->as_number() == before);
  CHECK(guard.judge(0.1, 1, reason) == Verdict::Update);  // a loss that falls is none
  NumericGuard off(limits("stop", 0, 3));
  settle(off, 60);
  CHECK(off.judge(1e9, 1, reason) == Verdict::Update);
}

TEST_CASE("numeric guard: a checkpoint carries it on") {
  std::string reason;
  NumericGuard guard(limits("skip", 6, 1)), restored(limits("skip", 6, 1));
  settle(guard, 60);
  CHECK(guard.judge(NAN, 1, reason) == Verdict::Skip);
  restored.restore(guard.to_value(), "state.json");
  CHECK(restored.to_value() == guard.to_value());
  CHECK(restored.judge(9, 1, reason) == Verdict::Stop);
  const std::string message = message_of(ErrorCode::BadInput, [&] {
    restored.restore(Value::Object{{"skipped", int64_t{1}}}, "state.json");
  });
  CHECK(message.find("state.json: guard: no key \"in_a_row\"") != std::string::npos);
}
