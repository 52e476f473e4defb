// The schedule: turn reuse, hazards and random passes; the plan: budgets, refusals, order of
// preference.
#include <random>

#include "core/error.h"
#include "stream/plan.h"
#include "stream/schedule.h"
#include "support/catch.h"

using namespace lema;

namespace {

// Plans `passes` passes one after another and returns the loads of each, checked.
std::vector<int64_t> loads(const std::vector<int64_t>& visits, const std::vector<bool>& resident,
                           int64_t slots, int passes) {
  RingState state(static_cast<size_t>(slots), -1);
  std::vector<int64_t> counts;
  for (int i = 0; i < passes; ++i) {
    const Program program = make_program(visits, resident, state);
    counts.push_back(check_program(program, visits, resident, state));
    CHECK(counts.back() == program.load_count);
    state = program.final_state;
  }
  return counts;
}

PlanRequest request() {
  PlanRequest r;
  r.unit_bytes = {100, 100, 100, 100, 60, 60};
  r.block_count = 4;
  r.fixed = {{Tier::Device, "adapter", 50}};
  r.boundary_count = 5;
  r.boundary_bytes = 10;
  r.kept_bytes_per_block = 40;
  return r;
}

}  // namespace

TEST_CASE("both turns reuse what lies in the ring") {
  const std::vector<int64_t> visits = training_visits(4, 0, 0);
  const std::vector<bool> none(4, false);
  CHECK(visits == std::vector<int64_t>{0, 1, 2, 3, 3, 2, 1, 0});
  CHECK(loads(visits, none, 2, 4) == std::vector<int64_t>{6, 4, 4, 4});
  CHECK(loads(visits, none, 3, 3) == std::vector<int64_t>{5, 2, 2});
  CHECK(loads(visits, none, 4, 3) == std::vector<int64_t>{4, 0, 0});
  CHECK(loads(visits, none, 1, 3) == std::vector<int64_t>{7, 6, 6});
}

TEST_CASE("S slots save up to 2S of 2L loads") {
  const int64_t L = 32;
  for (const int64_t slots : {2, 3, 5}) {
    const auto counts = loads(training_visits(L, 0, 0), std::vector<bool>(32, false), slots, 3);
    CHECK(counts[2] == 2 * L - 2 * slots);
  }
}

TEST_CASE("residents need no loads and backward stops at the lowest trained block") {
  const std::vector<bool> resident = {true, false, true, false, true};
  CHECK(loads(training_visits(4, 1, 2), resident, 1, 2) == std::vector<int64_t>{2, 2});
  CHECK(loads(forward_visits(4, 1), {true, true, true, true, true}, 0, 2) ==
        std::vector<int64_t>{0, 0});
}

TEST_CASE("random passes over random rings hold every invariant") {
  std::mt19937 random(7);
  for (int round = 0; round < 500; ++round) {
    const auto units = static_cast<int64_t>(1 + random() % 9);
    std::vector<bool> resident;
    for (int64_t u = 0; u < units; ++u) resident.push_back(random() % 4 == 0);
    RingState state(1 + random() % 6, -1);
    for (int pass = 0; pass < 4; ++pass) {
      std::vector<int64_t> visits;
      for (auto i = 1 + random() % 20; i > 0; --i)
        visits.push_back(static_cast<int64_t>(random()) % units);
      const Program program = make_program(visits, resident, state);
      REQUIRE_NOTHROW(check_program(program, visits, resident, state));
      state = program.final_state;
    }
  }
}

TEST_CASE("the checker sees each hazard") {
  using K = Instruction::Kind;
  const std::vector<int64_t> visits = {0, 1};
  const std::vector<bool> none(2, false);
  const RingState empty(1, -1);
  const auto hazard = [&](std::vector<Instruction> instructions) {
    CHECK_THROWS_AS(check_program({std::move(instructions), empty, 0}, visits, none, empty), Error);
  };
  hazard({{K::Visit, 0, 0}, {K::Release, 0, 0}});  // never loaded
  hazard({{K::Load, 0, 0},
          {K::Load, 1, 0},
          {K::Visit, 0, 0},
          {K::Release, 0, 0}});  // overwritten unread
  hazard({{K::Load, 0, 0},
          {K::Visit, 0, 0},
          {K::Load, 1, 0},
          {K::Release, 0, 0}});                                     // overwritten in use
  hazard({{K::Load, 0, 0}, {K::Visit, 0, 0}, {K::Release, 0, 0}});  // a visit is missing
}

TEST_CASE("without a budget the CPU reads weights in place and keeps activations") {
  PlanRequest r = request();
  r.weights_in_place = true;
  const Plan plan = make_plan(r);
  CHECK(plan.weights.in_place);
  CHECK(plan.kept_blocks == 4);
  CHECK(plan.bytes(Tier::Mapped) == 520);
  CHECK(plan.bytes(Tier::Device) == 50 + 50 + 160);
}

TEST_CASE(
    "every budget is kept or refused with the number that fits, and more memory never streams "
    "more") {
  int64_t least = 0, residents_before = -1;
  for (int64_t budget = 1; budget < 1000; ++budget) {
    PlanRequest r = request();
    r.device_budget = budget;
    try {
      const Plan plan = make_plan(r);
      if (least == 0) least = budget;
      CHECK(plan.bytes(Tier::Device) <= budget);
      int64_t residents = 0;
      for (const bool resident : plan.weights.resident) residents += resident;
      CHECK(residents >= residents_before);
      residents_before = residents;
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::DoesNotFit);
      CHECK(least == 0);
      CHECK(std::string(error.what()).find("280") != std::string::npos);
    }
  }
  CHECK(least == 280);  // adapter 50, three staged boundaries 30, two slots 200
  CHECK(residents_before == 6);
}

TEST_CASE("explicit wishes are met or refused") {
  PlanRequest r = request();
  r.device_budget = 400;
  r.residency = "resident";
  CHECK_THROWS_AS(make_plan(r), Error);
  r.residency = "auto";
  r.activations = "keep";
  CHECK_THROWS_AS(make_plan(r), Error);
  r.activations = "offload";
  r.slots = 3;
  const Plan plan = make_plan(r);
  CHECK(plan.offload_boundaries);
  CHECK(plan.weights.slots == 3);
  CHECK(plan.kept_blocks == 0);
}

TEST_CASE("more slots than units ask for no more than one each, and for less than all weights") {
  PlanRequest r = request();
  r.activations = "recompute";
  const int64_t units = std::ssize(r.unit_bytes);
  for (const auto& [residency, weights] : {std::pair("stream", units * 100), {"auto", 520}}) {
    for (const int64_t slots : {units, units + 1, 100 * units}) {
      INFO(residency << ", " << slots << " slots");
      r.residency = residency;
      r.slots = slots;
      r.device_budget = 0;
      CHECK(least_device_bytes(r) == 100 + weights);  // adapter, boundaries
      r.device_budget = 100 + weights;
      const Plan plan = make_plan(r);
      CHECK(plan.weights.slots == (r.residency == "stream" ? units : 0));
      CHECK(plan.bytes(Tier::Device) == r.device_budget);
    }
  }
}
