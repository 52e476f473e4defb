// Learning rates at the steps that implementations disagree on.
#include "train/lr_schedule.h"

#include <cmath>

#include "support/catch.h"

using namespace lema;

TEST_CASE("schedules follow transformers: warm-up is step / warm-up, so the first rate is 0") {
  const LrSchedule cosine{"cosine", 1.0, 4, 20, 0.1};
  CHECK(cosine.at(0) == 0.0);
  CHECK(cosine.at(2) == 0.5);
  CHECK(cosine.at(4) == 1.0);
  CHECK(std::abs(cosine.at(12) - 0.55) < 1e-12);
  CHECK(std::abs(cosine.at(20) - 0.1) < 1e-12);
  CHECK(std::abs(LrSchedule{"linear", 2.0, 0, 10, 0.0}.at(5) - 1.0) < 1e-12);
  CHECK(LrSchedule{"constant", 2.0, 0, 10, 0.0}.at(9) == 2.0);
  const LrSchedule wsd{"wsd", 1.0, 0, 100, 0.0};
  CHECK(wsd.at(79) == 1.0);
  CHECK(std::abs(wsd.at(90) - 0.5) < 1e-12);
}

TEST_CASE("warm-up is a share below 1 and steps from 1 on") {
  CHECK(warmup_steps(0.03, 100) == 3);
  CHECK(warmup_steps(0.03, 50) == 2);  // rounded up
  CHECK(warmup_steps(7, 50) == 7);
  CHECK(warmup_steps(0, 50) == 0);
}
