// LossScale: halved by an overflow, doubled after 2,000 updates, 1 for other types than f16.
#include "train/loss_scale.h"

#include <cmath>

#include "support/catch.h"
#include "support/message_of.h"

using namespace lema;

TEST_CASE("loss scale: an overflow is no update and halves it") {
  LossScale scale(true);
  CHECK(scale.scale() == 65536);
  CHECK(scale.accepts(1));
  CHECK_FALSE(scale.accepts(INFINITY));
  CHECK_FALSE(scale.accepts(NAN));
  CHECK(scale.scale() == 16384);
  CHECK(scale.skipped() == 2);
}

TEST_CASE("loss scale: 2,000 updates in a row double it, across a checkpoint too") {
  LossScale scale(true);
  for (int i = 0; i < 1500; ++i) scale.accepts(1);
  LossScale restored(true);
  restored.restore(scale.to_value(), "state.json");
  for (int i = 0; i < 499; ++i) restored.accepts(1);
  CHECK(restored.scale() == 65536);
  restored.accepts(1);
  CHECK(restored.scale() == 131072);
  CHECK_FALSE(restored.accepts(INFINITY));
  for (int i = 0; i < 1999; ++i) restored.accepts(1);
  CHECK(restored.scale() == 65536);
  CHECK(message_of(ErrorCode::BadInput, [&] {
          restored.restore(Value::Object{{"scale", 2.0}, {"steps", int64_t{1}}}, "state.json");
        }).find("state.json: loss_scale: no key \"skipped\"") != std::string::npos);
}

TEST_CASE("loss scale: it ends at 1, and other types have none") {
  LossScale scale(true, 2);
  CHECK_FALSE(scale.accepts(INFINITY));
  CHECK(scale.scale() == 1);
  message_of(ErrorCode::Numeric, [&] { scale.accepts(INFINITY); });
  LossScale off(false);
  CHECK(off.scale() == 1);
  CHECK(off.accepts(INFINITY));
  CHECK(off.scale() == 1);
}
