// The plan under a budget for host memory: what is held, the ring, refusals, and the order in which
// memory is given away.
#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "stream/plan.h"
#include "support/catch.h"
#include "support/message_of.h"

using namespace lema;

namespace {

// Four blocks and two chunks of the head on the CPU: 450 bytes of fixed buffers and boundaries.
PlanRequest request(int64_t budget) {
  PlanRequest r;
  r.unit_bytes = {100, 100, 100, 100, 60, 60};
  r.block_count = 4;
  r.fixed = {{Tier::Device, "adapter", 300}, {Tier::Host, "program", 100}};
  r.boundary_count = 5;
  r.boundary_bytes = 10;
  r.kept_bytes_per_block = 40;
  r.pinned_weights = 560;
  r.weights_in_place = true;
  r.ram = {budget, true, true, {110, 110, 110, 110, 70, 70}, 5, 15};
  return r;
}

int64_t held(const Plan& plan) {
  return std::count(plan.host.held.begin(), plan.host.held.end(), true);
}
int64_t bytes(const Plan& plan) {
  int64_t sum = 0;
  for (const PlanLine& line : plan.lines) sum += line.bytes;
  return sum;
}

}  // namespace

TEST_CASE("the least is a ring of two; memory goes to activations, a third slot, weights") {
  const int64_t least = 450 + 20 + 220;
  const std::string refusal =
      message_of(ErrorCode::DoesNotFit, [&] { make_plan(request(least - 1)); });
  CHECK(contains(refusal, "memory.ram is 689 B; set it to at least 690"));
  PlanRequest unset = request(least - 1);
  unset.ram.is_set = false;
  CHECK(contains(message_of(ErrorCode::DoesNotFit, [&] { make_plan(unset); }),
                 "needs 690 B of host memory and may take 689 B"));
  Plan plan = make_plan(request(least));
  CHECK(plan.weights.in_place);
  CHECK_FALSE(plan.host.holds_all);
  CHECK(plan.host.slots == 2);
  CHECK(held(plan) == 0);
  CHECK(plan.kept_blocks == 0);
  CHECK(make_plan(request(least + 40)).kept_blocks == 1);
  plan = make_plan(request(least + 4 * 40 + 110));
  CHECK(plan.kept_blocks == 4);
  CHECK(plan.host.slots == 3);
  CHECK(held(plan) == 0);
  plan = make_plan(request(least + 4 * 40 + 110 + 70));
  CHECK(held(plan) == 0);  // spread evenly, the one would be a block
  plan = make_plan(request(least + 4 * 40 + 220));
  CHECK(held(plan) == 1);
  CHECK(plan.weights.resident == plan.host.held);
  // All that fits is held, without a ring, and the embedding.
  plan = make_plan(request(450 + 560 + 160));
  CHECK(plan.host.holds_all);
  CHECK(plan.host.slots == 0);
}

TEST_CASE("the least of host memory is a budget that does, and no less") {
  for (const char* residency : {"auto", "stream", "resident"})
    for (const char* activations : {"auto", "keep", "recompute", "offload"})
      for (const int64_t slots : {0, 2, 5})
        for (const bool in_place : {true, false}) {
          INFO(residency << " " << activations << " " << slots << " " << in_place);
          PlanRequest r = request(1);
          r.residency = residency;
          r.activations = activations;
          r.slots = slots;
          r.weights_in_place = in_place;
          const int64_t least = least_host_bytes(r);
          r.ram.budget = least;
          CHECK(bytes(make_plan(r)) <= least);
          r.ram.budget = least - 1;
          message_of(ErrorCode::DoesNotFit, [&] { make_plan(r); });
        }
}

TEST_CASE("small units have a ring that keeps a disk busy, for half of them at most") {
  constexpr int64_t kUnit = int64_t{7} << 20;
  PlanRequest r = request(int64_t{1} << 30);
  r.residency = "stream";
  r.unit_bytes.assign(40, kUnit - 100);
  r.ram.image_bytes.assign(40, kUnit);
  r.pinned_weights = 40 * kUnit;
  CHECK(make_plan(r).host.slots == 6);  // 42 of 48 MiB
  r.ram.budget = 5 * kUnit;
  CHECK(make_plan(r).host.slots == 4);
  r.ram.budget = int64_t{1} << 30;
  r.unit_bytes.resize(9);
  r.ram.image_bytes.resize(9);
  CHECK(make_plan(r).host.slots == 4);
  r.slots = 3;
  CHECK(make_plan(r).host.slots == 3);
}

TEST_CASE("every budget is kept, and the reads of more memory are never more") {
  int64_t fewest_streamed = INT64_MAX;
  for (int64_t budget = 690; budget < 1300; ++budget) {
    PlanRequest r = request(budget);
    r.activations = "recompute";
    const Plan plan = make_plan(r);
    CHECK(bytes(plan) <= budget);
    const int64_t streamed =
        plan.host.holds_all ? 0 : std::max<int64_t>(0, 6 - held(plan) - plan.host.slots);
    CHECK(streamed <= fewest_streamed);
    fewest_streamed = streamed;
  }
  CHECK(fewest_streamed == 0);
}

TEST_CASE("wishes for residency under a budget for host memory") {
  PlanRequest r = request(900);
  r.residency = "resident";
  CHECK(contains(message_of(ErrorCode::DoesNotFit, [&] { make_plan(r); }), "at least 1010"));
  r = request(2000);
  r.residency = "stream";
  CHECK(held(make_plan(r)) == 0);
  CHECK(make_plan(r).host.slots == 3);
  r.slots = 2;
  CHECK(make_plan(r).host.slots == 2);
  r.slots = 5;
  CHECK(make_plan(r).host.slots == 5);
}

TEST_CASE("a device with memory of its own leaves the host's to weights that it does not hold") {
  PlanRequest r = request(100 + 20 + 220);
  r.weights_in_place = r.ram.holds_device = false;
  r.device_budget = 300 + 50 + 3 * 100;
  r.activations = "recompute";
  const Plan plan = make_plan(r);
  CHECK_FALSE(plan.weights.in_place);
  CHECK(plan.weights.slots == 2);
  CHECK(plan.host.slots == 2);
  CHECK(held(plan) == 0);
  r.ram.budget = 100 + 560;
  CHECK(make_plan(r).host.holds_all);
  // What is on the device is not held on the host too.
  r.ram.budget = 100 + 20 + 3 * 110 + 110;
  const Plan more = make_plan(r);
  for (size_t u = 0; u < r.unit_bytes.size(); ++u)
    CHECK_FALSE((more.weights.resident[u] && more.host.held[u]));
  CHECK(held(more) == 1);
}

TEST_CASE("on a GPU the page tables of pinned memory are part of the device's budget") {
  PlanRequest r = request(0);
  r.weights_in_place = r.ram.holds_device = false;
  r.residency = "stream";
  for (const auto& [activations, pinned] : {std::pair("recompute", 560), {"offload", 580}}) {
    INFO(activations);
    r.activations = activations;
    r.device_budget = r.pinned_per_device_byte = 0;
    const int64_t before = make_plan(r).bytes(Tier::Device);
    r.pinned_per_device_byte = 10;
    CHECK(make_plan(r).bytes(Tier::Device) == before + pinned / 10);
    r.device_budget = least_device_bytes(r);
    CHECK(make_plan(r).bytes(Tier::Device) == r.device_budget);
    --r.device_budget;
    message_of(ErrorCode::DoesNotFit, [&] { make_plan(r); });
  }
}
