// Weights that come from disk in every step: no bit changes, the budget for host memory is kept,
// and more of it never means more reads. On devices whose copies arrive late, which read weights in
// the ring in RAM, or get copies of them.
#include "support/catch.h"
#include "support/late_device.h"
#include "support/train_bench.h"

using namespace lema;
using namespace lema::test;

namespace {

Outcome run(const TrainBench& bench, const Settings& settings, bool in_place) {
  const auto as_planned = [](Trainer& trainer) {
    const auto& device = dynamic_cast<LateDevice&>(trainer.device());
    const RunPlan& plan = trainer.plan();
    CHECK(device.pinned_bytes() == plan.placement.bytes(Tier::Pinned));
    CHECK(device.allocated_bytes() + trainer.kernel_scratch_bytes() ==
          plan.placement.bytes(Tier::Device));
  };
  return bench.run(bench.config(settings), {std::make_unique<LateDevice>(in_place), cpu_ops()}, 4,
                   as_planned);
}

bool can_be_direct(const TrainBench& bench) {
  const ModelFolder folder(bench.config().model);
  if (DiskFiles::can_be_direct(folder)) return true;
  WARN("the file system of the temporary folder has no O_DIRECT: direct reads are not tested");
  return false;
}

}  // namespace

TEST_CASE("a ring in RAM that is read in place changes no bit") {
  const auto family = GENERATE(Family::Llama, Family::Gpt2);
  const auto blocks = GENERATE(int64_t{3}, int64_t{4});
  const auto dtype = GENERATE(DType::F32, DType::BF16);
  const TrainBench bench({family, blocks, dtype, blocks == 4}, 23);
  const std::string compute = dtype == DType::BF16 ? "compute=bf16" : "compute=f32";
  const Outcome reference = run(bench, {compute, "memory.activations=keep"}, true);
  CHECK(reference.disk_bytes == 0);
  std::vector<Settings> variants = {
      {"memory.slots=2", "memory.disk=buffered"},
      {"memory.slots=3", "memory.disk=buffered", "threads=1", "memory.activations=recompute"}};
  if (can_be_direct(bench)) {
    variants.push_back({"memory.slots=2", "memory.disk=direct", "threads=1"});
    variants.push_back({"memory.slots=7", "memory.disk=direct", "threads=3"});
  }
  for (const auto& variant : variants) {
    INFO(fmt::format("{}", fmt::join(variant, " ")));
    const Outcome outcome =
        run(bench, with({compute, "memory.residency=stream", "memory.ram=1GB"}, variant), true);
    CHECK(outcome == reference);
    CHECK(outcome.allocations_in_steps == 0);
    CHECK(outcome.h2d_bytes == 0);
    CHECK(outcome.disk_bytes > 0);
  }
}

TEST_CASE("a budget for host memory changes no bit and is kept") {
  const bool in_place = GENERATE(true, false);
  const TrainBench bench({Family::Llama, GENERATE(int64_t{5}, int64_t{6}), DType::F32, false}, 11);
  Settings settings = {"compute=f32", "memory.activations=recompute"};
  const Outcome reference = run(bench, settings, in_place);
  if (!in_place) settings.push_back("memory.residency=stream");
  if (GENERATE(true, false) && can_be_direct(bench)) settings.push_back("memory.disk=direct");
  const std::string refusal = message_of(
      ErrorCode::DoesNotFit, [&] { run(bench, with(settings, {"memory.ram=1"}), in_place); });
  CHECK(contains(refusal, "memory.ram is 1 B; set it to"));
  const int64_t least = named_least(refusal);
  int64_t fewest = INT64_MAX;
  for (const int64_t more : {-1, 0, 50'000, 100'000, 150'000, 200'000, 2'000'000}) {
    INFO(fmt::format("least {} and {}", least, more));
    const auto budget = with(settings, {fmt::format("memory.ram={}", least + more)});
    if (more < 0) {
      message_of(ErrorCode::DoesNotFit, [&] { run(bench, budget, in_place); });
      continue;
    }
    const Outcome outcome = run(bench, budget, in_place);
    CHECK(outcome == reference);
    CHECK(outcome.allocations_in_steps == 0);
    CHECK(outcome.disk_bytes <= fewest);
    CHECK((more == 0) <= (outcome.disk_bytes > 0));
    fewest = outcome.disk_bytes;
  }
  CHECK(fewest == 0);
}

TEST_CASE("matrices in full and magnitudes start from weights that are not held") {
  const auto family = GENERATE(Family::Llama, Family::Gpt2);
  const TrainBench bench({.family = family, .L = 3}, 23);
  const std::string embedding = family == Family::Gpt2 ? "wte" : "embed_tokens";
  const Settings settings = {
      "compute=f32", "lora.dora=true",
      "lora.modules_to_save=[\"" + embedding + "\",\"lm_head\"]"};
  const Outcome reference = run(bench, settings, true);
  const Outcome outcome =
      run(bench, with(settings, {"memory.ram=1GB", "memory.residency=stream", "memory.slots=2"}),
          true);
  CHECK(outcome == reference);
  CHECK(outcome.disk_bytes > 0);
}

// With the embedding trained in full no rows of it are read.
TEST_CASE("the trace of a step reads and copies what a step does") {
  const bool in_place = GENERATE(true, false), is_cached = GENERATE(true, false);
  const TrainBench bench({.family = Family::Llama, .L = 6}, 23);
  const Settings settings = {"compute=f32",
                             "memory.disk=buffered",
                             "memory.residency=stream",
                             "memory.slots=2",
                             "memory.activations=recompute",
                             "lora.modules_to_save=[\"embed_tokens\"]"};
  const std::string refusal = message_of(ErrorCode::DoesNotFit, [&] {
    run(bench, with(settings, {"memory.ram=1"}), in_place);
  });
  const RunConfig config =
      bench.config(with(settings, {fmt::format("memory.ram={}", named_least(refusal))}));
  const ModelFolder model(config.model);
  StepTrace trace;
  const TrainBench::Look take_trace = [&](Trainer& trainer) {
    RunPlan plan = trainer.plan();
    plan.reads_page_cache = is_cached;
    trace = trace_step(config, model, plan, trainer.device(), cpu_ops(), nullptr, false);
  };
  const auto run_steps = [&](int64_t steps) {
    return bench.run(config, {std::make_unique<LateDevice>(in_place), cpu_ops()}, steps,
                     take_trace);
  };
  const Outcome two = run_steps(2), four = run_steps(4);
  const auto bytes = [&](Lane lane) {
    int64_t sum = 0;
    for (const StepItem& item : trace.items)
      if (item.item.lane == lane) sum += item.bytes;
    return sum;
  };
  CHECK(trace.reads_from_disk());
  // Who computes copies out of the page cache.
  const Lane reads = is_cached && in_place ? Lane::Host : Lane::Disk;
  CHECK(2 * bytes(reads) == four.disk_bytes - two.disk_bytes);
  CHECK(2 * bytes(Lane::H2D) == four.h2d_bytes - two.h2d_bytes);
}
