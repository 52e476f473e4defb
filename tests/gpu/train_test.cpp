// What must never change a bit on a GPU: where weights lie, how many slots the ring has, what is
// recomputed or offloaded, and when a run is repeated. And the GPU's run against the CPU's.
#include <cmath>

#include "support/train_bench.h"

using namespace lema;
using namespace lema::test;

namespace {

class Bench : public TrainBench {
 public:
  using TrainBench::TrainBench;

  Outcome run(const RunConfig& config, int64_t steps = 4) const {
    const auto make_ops = [](Device& device, int, const OpsLimits& limits) {
      return make_cuda_ops(device, limits);
    };
    return TrainBench::run(config, make_cuda_device(0), make_ops, steps);
  }
  Outcome run_on_cpu(const RunConfig& config, int64_t steps = 4) const {
    const auto make_ops = [](Device&, int threads, const OpsLimits& limits) {
      return make_cpu_ops(threads, limits);
    };
    return TrainBench::run(config, make_cpu_device(), make_ops, steps);
  }
};

constexpr const char* kWhole = R"(lora.modules_to_save=["embed_tokens","lm_head"])";

// Root of the mean square difference over that of `expected`.
double relative_error(const std::vector<float>& found, const std::vector<float>& expected) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double x = expected[i];
    difference += std::pow(static_cast<double>(found[i]) - x, 2);
    norm += x * x;
  }
  return std::sqrt(difference / norm);
}

}  // namespace

TEST_CASE("gpu: placement, slots, recompute and offload change no bit") {
  const TinyModelOptions model =
      GENERATE(TinyModelOptions{Family::Llama, 3, DType::F32, false},
               TinyModelOptions{Family::Llama, 4, DType::BF16, true},
               TinyModelOptions{Family::Gpt2, 4, DType::BF16, true}, tiny_qwen3(), tiny_phi3());
  const auto compute = GENERATE("compute=f32", "compute=bf16");
  const Bench bench(model, 23);
  const Outcome reference =
      bench.run(bench.config({compute, "memory.residency=resident", "memory.activations=keep"}));
  CHECK(reference.h2d_bytes == 0);
  CHECK(reference.allocations_in_steps == 0);
  const std::vector<std::vector<std::string>> variants = {
      {"memory.residency=resident", "memory.activations=keep"},
      {"memory.residency=resident", "memory.activations=recompute"},
      {"memory.residency=resident", "memory.activations=offload"},
      {"memory.residency=stream", "memory.slots=2"},
      {"memory.residency=stream", "memory.slots=2", "memory.activations=offload"},
      {"memory.residency=stream", "memory.slots=3", "memory.activations=recompute"},
      {"memory.residency=stream", "memory.slots=7", "memory.activations=offload"},
  };
  for (const auto& variant : variants) {
    std::vector<std::string> settings = {compute};
    settings.insert(settings.end(), variant.begin(), variant.end());
    INFO(fmt::format("{}", fmt::join(settings, " ")));
    const Outcome outcome = bench.run(bench.config(settings));
    CHECK(outcome == reference);
    CHECK(outcome.allocations_in_steps == 0);
  }
}

TEST_CASE("gpu: placement changes no bit of a run with magnitudes and matrices in full") {
  const auto compute = GENERATE("compute=f32", "compute=bf16");
  const Bench bench({Family::Llama, 4, DType::BF16, true}, 23);
  const auto run = [&](const char* residency, const char* slots) {
    return bench.run(bench.config({compute, "lora.dora=true", kWhole, residency, slots}));
  };
  CHECK(run("memory.residency=stream", "memory.slots=2") ==
        run("memory.residency=resident", "memory.slots=2"));
}

TEST_CASE("gpu: 20 steps with a budget between streaming and residence change no bit") {
  const Bench bench({Family::Llama, 6, DType::BF16, false}, 11);
  const Outcome reference =
      bench.run(bench.config({"compute=bf16", "memory.residency=resident"}), 20);
  const int64_t least = bench
                            .run(bench.config({"compute=bf16", "memory.residency=stream",
                                               "memory.slots=2", "memory.activations=offload"}),
                                 1)
                            .device_bytes;
  for (const int64_t more : {0, 60'000, 120'000}) {
    INFO(fmt::format("{} bytes above the least", more));
    const Outcome outcome =
        bench.run(bench.config({"compute=bf16", fmt::format("memory.vram={}", least + more)}), 20);
    CHECK(outcome == reference);
    CHECK(outcome.device_bytes <= least + more);
  }
}

TEST_CASE("gpu: losses and gradients are the CPU's to rounding") {
  const TinyModelOptions model =
      GENERATE(TinyModelOptions(), TinyModelOptions{Family::Gpt2}, tiny_qwen3(), tiny_phi3());
  const auto dropout = GENERATE("lora.dropout=0", "lora.dropout=0.2");
  const auto dora = GENERATE("lora.dora=false", "lora.dora=true");
  const Bench bench(model, 23);
  const RunConfig config = bench.config({"compute=f32", dropout, dora});
  const Outcome cpu = bench.run_on_cpu(config, 1), gpu = bench.run(config, 1);
  CHECK(std::abs(gpu.losses[0] - cpu.losses[0]) <= 1e-5 * cpu.losses[0]);
  CHECK(relative_error(gpu.gradients, cpu.gradients) <= 1e-4);
}

TEST_CASE("gpu: gradients of the embedding and the head are the CPU's to rounding") {
  const Bench bench(TinyModelOptions(), 23);
  const RunConfig config = bench.config({"compute=f32", "lora.dropout=0", kWhole});
  const Outcome cpu = bench.run_on_cpu(config, 1), gpu = bench.run(config, 1);
  CHECK(std::abs(gpu.losses[0] - cpu.losses[0]) <= 1e-5 * cpu.losses[0]);
  CHECK(relative_error(gpu.gradients, cpu.gradients) <= 1e-4);
}
