// Named malformed inputs: each must be refused with its code and a message that says what and
// where, on one line that a terminal may show, within the time and memory that hostile input is
// given. Used by tests/malformed, one table for each parser; with LEMA_MUTANTS=N in the environment
// also for N mutants of each input.
#pragma once

#include <fmt/format.h>

#include <ctime>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "support/catch.h"
#include "support/message_of.h"
#include "support/mutants.h"
#include "support/peak_memory.h"

namespace lema {

struct Malformed {
  std::string name, bytes;
  std::string part;  // of the message
};

namespace malformed {

inline double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

#ifdef LEMA_SANITIZED
inline constexpr double kMaxSeconds = 30;  // instrumented code is that much slower, and pads blocks
inline constexpr int64_t kMemoryFactor = 160, kMemoryFloor = int64_t{1} << 30;
#else
inline constexpr double kMaxSeconds = 2;
inline constexpr int64_t kMemoryFactor = 16, kMemoryFloor = int64_t{64} << 20;
#endif

// What an input came to: without code and message when it was accepted.
struct Outcome {
  std::optional<ErrorCode> code;
  std::string message;
  double seconds = 0;
  int64_t memory = 0;  // bytes that the process grew by
};

template <typename Parse>
Outcome outcome_of(Parse&& parse, const std::string& bytes) {
  Outcome outcome;
  const PeakMemory memory;
  const double began = cpu_seconds();
  try {
    parse(bytes);
  } catch (const Error& error) {
    outcome.code = error.code();
    outcome.message = error.what();
  }
  outcome.seconds = cpu_seconds() - began;
  outcome.memory = memory.growth();
  return outcome;
}

// What holds for every input, sound ones too.
inline void check_bounds(const Outcome& outcome, int64_t bytes, int64_t memory_floor) {
  CHECK(outcome.message.size() < 1500);
  for (const char c : outcome.message)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) FAIL_CHECK("control character");
  CHECK(outcome.seconds < kMaxSeconds);
  CHECK(outcome.memory <= kMemoryFactor * bytes + memory_floor);
}

// Mutants of every input, as many as Mutants::wanted() or 5 s of them: each is accepted or refused
// with the code.
template <typename Parse>
void expect_mutants_bounded(const std::vector<Malformed>& cases, Parse&& parse,
                            int64_t memory_floor, ErrorCode code) {
  if (Mutants::wanted() == 0) return;
  Mutants mutants;
  int64_t count = 0, refused = 0;
  for (const Malformed& c : cases) {
    const double began = cpu_seconds();
    for (int64_t i = 0; i < Mutants::wanted() && cpu_seconds() - began < 5; ++i, ++count) {
      const std::string bytes = mutants.next(c.bytes);
      const Outcome outcome = outcome_of(parse, bytes);
      refused += outcome.code.has_value();
      INFO("mutant " << i << " of " << c.name << ": " << outcome.message.substr(0, 2000));
      INFO(escaped(std::string_view(bytes).substr(0, 4000)));
      CHECK(outcome.code.value_or(code) == code);
      CHECK(outcome.message.empty() == !outcome.code);
      check_bounds(outcome, std::ssize(bytes), memory_floor);
    }
  }
  WARN(count << " mutants, " << refused << " refused");
}

}  // namespace malformed

// parse(bytes) must throw Error(code) for each case; `place` is in every message. memory_floor:
// bytes that an input of any size may take.
template <typename Parse>
void expect_refused(const std::vector<Malformed>& cases, std::string_view place, Parse&& parse,
                    int64_t memory_floor = malformed::kMemoryFloor,
                    ErrorCode code = ErrorCode::BadInput) {
  for (const Malformed& c : cases) {
    const malformed::Outcome outcome = malformed::outcome_of(parse, c.bytes);
    INFO(c.name << ": " << outcome.message.substr(0, 2000));
    CHECK(outcome.code == code);
    CHECK(contains(outcome.message, place));
    CHECK(contains(outcome.message, c.part));
    malformed::check_bounds(outcome, std::ssize(c.bytes), memory_floor);
  }
  malformed::expect_mutants_bounded(cases, parse, memory_floor, code);
}

// parse(bytes) must accept what the cases of a table are damaged from.
template <typename Parse>
void expect_accepted(const std::vector<std::string>& inputs, Parse&& parse,
                     int64_t memory_floor = malformed::kMemoryFloor) {
  std::vector<Malformed> cases;
  for (const std::string& bytes : inputs) {
    const malformed::Outcome outcome = malformed::outcome_of(parse, bytes);
    INFO(outcome.message);
    CHECK(!outcome.code);
    malformed::check_bounds(outcome, std::ssize(bytes), memory_floor);
    cases.push_back({fmt::format("the sound input {}", cases.size() + 1), bytes, ""});
  }
  malformed::expect_mutants_bounded(cases, parse, memory_floor, ErrorCode::BadInput);
}

inline std::string repeat(std::string_view text, int count) {
  std::string out;
  out.reserve(text.size() * static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) out += text;
  return out;
}

}  // namespace lema
