// What must never change a bit on a GPU: where weights lie, how many slots the ring has, what is
// recomputed or offloaded, and when a run is repeated. And the GPU's run against the CPU's.
#include <cmath>
#include <cstdlib>

#include "support/train_bench.h"

using namespace lema;
using namespace lema::test;

namespace {

constexpr const char* kWhole = R"(lora.modules_to_save=["embed_tokens","lm_head"])";

// Under compute-sanitizer (gpu_sanitize.sh names the tool) a step takes seconds: every case then
// runs one step and its evaluation, of every kernel, queue and copy still, in fewer tiles of more
// tokens. racecheck looks into kernels, which do not know where weights come from.
const char* const kTool = std::getenv("LEMA_SANITIZED");
const bool kSanitized = kTool != nullptr;
const bool kKernelsOnly = kSanitized && kTool == std::string("racecheck");
int64_t steps_of(int64_t steps) { return kSanitized ? 1 : steps; }

class Bench : public TrainBench {
 public:
  using TrainBench::TrainBench;

  RunConfig config(const Settings& settings = {}) const {
    return TrainBench::config(kSanitized ? with({"train.token_tile=48"}, settings) : settings);
  }
  Outcome run(const RunConfig& config, int64_t steps = 4, const Look& before = {},
              const Look& after = {}) const {
    return TrainBench::run(config, {make_cuda_device(0), cuda_ops()}, steps, before, after);
  }
  Outcome run_on_cpu(const RunConfig& config, int64_t steps = 4) const {
    return TrainBench::run(config, {make_cpu_device(), cpu_ops()}, steps);
  }
};

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

// Of the gradient of every A, B and magnitude: relative errors, by tensor.
std::vector<std::pair<std::string, double>> gradient_errors(const Outcome& found,
                                                            const Outcome& expected) {
  REQUIRE(found.gradients.size() == expected.gradients.size());
  std::vector<std::pair<std::string, double>> errors;
  const auto add = [&](const AdapterSlot& slot, const char* what, int64_t offset, int64_t count) {
    const auto part = [&](const std::vector<float>& all) {
      return std::vector<float>(all.begin() + offset, all.begin() + offset + count);
    };
    errors.emplace_back(
        fmt::format("{} of {}, block {}", what, name(slot.site.field), slot.site.block),
        relative_error(part(found.gradients), part(expected.gradients)));
  };
  for (const AdapterSlot& slot : expected.slots) {
    add(slot, "A", slot.a_offset, slot.rank * slot.site.in);
    add(slot, "B", slot.b_offset, slot.site.out * slot.rank);
    if (slot.magnitude_offset >= 0) add(slot, "magnitude", slot.magnitude_offset, slot.site.out);
  }
  return errors;
}

// In f32: sums of the same terms in another order. What lies in no slot, embedding and head in
// full, has its own bound through the whole.
void check_gradients_in_f32(const Outcome& gpu, const Outcome& cpu) {
  CHECK(std::abs(gpu.losses[0] - cpu.losses[0]) <= 1e-5 * cpu.losses[0]);
  CHECK(relative_error(gpu.gradients, cpu.gradients) <= 1e-4);
  for (const auto& [tensor, error] : gradient_errors(gpu, cpu)) {
    INFO(tensor);
    CHECK(error <= 1e-4);
  }
}

// Under compute-sanitizer each model has one type.
void check_placements(const TinyModelOptions& model, const char* sanitized) {
  const std::string compute = GENERATE("compute=f32", "compute=bf16", "compute=f16");
  if (kSanitized && compute != sanitized) return;
  const Bench bench(model, 23);
  const auto run = [&](const Settings& placement) {
    return bench.run(bench.config(with({compute}, placement)), steps_of(4));
  };
  const Outcome reference = run({"memory.residency=resident", "memory.activations=keep"});
  CHECK(reference.h2d_bytes == 0);
  CHECK(reference.allocations_in_steps == 0);
  std::vector<Settings> variants = {
      {"memory.residency=resident", "memory.activations=keep"},
      {"memory.residency=resident", "memory.activations=recompute"},
      {"memory.residency=resident", "memory.activations=offload"},
      {"memory.residency=stream", "memory.slots=2"},
      {"memory.residency=stream", "memory.slots=2", "memory.activations=offload"},
      {"memory.residency=stream", "memory.slots=3", "memory.activations=recompute"},
      {"memory.residency=stream", "memory.slots=7", "memory.activations=offload"},
  };
  if (kKernelsOnly) variants = {variants.back()};
  for (const auto& variant : variants) {
    INFO(fmt::format("{} {}", compute, fmt::join(variant, " ")));
    const Outcome outcome = run(variant);
    CHECK(outcome == reference);
    CHECK(outcome.allocations_in_steps == 0);
  }
}

// Weights come from disk in every step, but for the last budget. Under compute-sanitizer an odd
// number of blocks by one kind of reads, an even one by the other.
void check_disk(int64_t blocks) {
  const Bench bench({Family::Llama, blocks, DType::BF16, false}, 11);
  Settings settings = {"compute=bf16", "memory.activations=recompute"};
  const int64_t steps = steps_of(20);
  const Outcome reference = bench.run(bench.config(settings), steps);
  CHECK(reference.disk_bytes == 0);
  settings.push_back("memory.residency=stream");
  const auto run = [&](int64_t ram, const std::string& disk) {
    return bench.run(bench.config(with(settings, {fmt::format("memory.ram={}", ram), disk})),
                     steps);
  };
  const int64_t least = named_least(
      message_of(ErrorCode::DoesNotFit, [&] { run(1, "memory.disk=auto"); }));
  Settings disks = {"memory.disk=buffered"};
  if (DiskFiles::can_be_direct(ModelFolder(bench.config().model)))
    disks.push_back("memory.disk=direct");
  if (kSanitized && disks.size() == 2) disks.erase(disks.begin() + blocks % 2);
  for (const std::string& disk : disks)
    for (const int64_t more : {0, 60'000, 2'000'000}) {
      if (kKernelsOnly && more != 60'000) continue;
      INFO(fmt::format("{}, {} bytes above the least", disk, more));
      const Outcome outcome = run(least + more, disk);
      CHECK(outcome == reference);
      CHECK(outcome.allocations_in_steps == 0);
      CHECK((outcome.disk_bytes > 0) == (more < 2'000'000));
    }
}

}  // namespace

// The first case: kernels that another has loaded cannot be missing, in its first model at least.
TEST_CASE("gpu: no number of tokens needs a kernel that start-up has not run") {
  const bool dora = GENERATE(false, true);
  TinyModelOptions llama{Family::Llama, 2, DType::BF16, true}, gpt2{Family::Gpt2, 2};
  llama.settings = {{"hidden_size", 512},
                    {"intermediate_size", 1408},
                    {"num_attention_heads", 8},
                    {"num_key_value_heads", 2}};
  gpt2.settings = {{"n_embd", 384}, {"n_head", 6}};
  const TinyModelOptions model = GENERATE_COPY(llama, gpt2);
  if (kKernelsOnly && dora != (model.family == Family::Gpt2)) return;
  const Bench bench(model, 150, 128);
  RunConfig config = bench.config({"compute=bf16", "lora.rank=16", "train.token_tile=100",
                                   "train.batch_size=1", "memory.residency=stream",
                                   dora ? "lora.dora=true" : "lora.dora=false"});
  config.train.max_steps = steps_of(149) + 1;
  RunConfig evaluated = config;
  evaluated.data.eval = config.data.train;
  PlannedRun planned(evaluated, {}, false);
  REQUIRE(planned.forecast(0).loaded_bytes > 0);
  int64_t bytes = 0;
  const Bench::Look note = [&](Trainer& trainer) { bytes = trainer.device().used_bytes(); };
  const Bench::Look compare = [&](Trainer& trainer) {
    // The driver counts other processes too, and gpu_sanitize.sh runs several.
    if (!kSanitized) CHECK(trainer.device().used_bytes() == bytes);
  };
  bench.run(config, steps_of(149), note, compare);
}

TEST_CASE("gpu: placement, slots, recompute and offload change no bit of Llama in f32") {
  check_placements({Family::Llama, 3, DType::F32, false}, "compute=f32");
}
TEST_CASE("gpu: placement, slots, recompute and offload change no bit of Llama in bf16") {
  check_placements({Family::Llama, 4, DType::BF16, true}, "compute=bf16");
}
TEST_CASE("gpu: placement, slots, recompute and offload change no bit of GPT-2") {
  check_placements({Family::Gpt2, 4, DType::BF16, true}, "compute=f16");
}
// What is kept for three heads of an odd number of tokens is aligned like what is computed again.
TEST_CASE("gpu: placement, slots, recompute and offload change no bit of three heads") {
  TinyModelOptions model{Family::Llama, 3, DType::BF16, true};
  model.settings = {{"hidden_size", 48}, {"num_attention_heads", 3}, {"num_key_value_heads", 3}};
  check_placements(model, "compute=bf16");
}
TEST_CASE("gpu: placement, slots, recompute and offload change no bit of Qwen3") {
  check_placements(tiny_qwen3(), "compute=bf16");
}
TEST_CASE("gpu: placement, slots, recompute and offload change no bit of Phi-3") {
  check_placements(tiny_phi3(), "compute=f16");
}

// Heads for tensor cores, tiles of many rows and blocks of 21 MB; under compute-sanitizer narrower.
TEST_CASE("gpu: placement changes no bit of 20 steps of wide blocks") {
  const int64_t head = GENERATE(64, 128), width = kSanitized ? 256 : 1024;
  TinyModelOptions model{Family::Llama, 3, DType::BF16, true};
  model.settings = {{"hidden_size", width},
                    {"intermediate_size", 2 * width},
                    {"num_attention_heads", width / head},
                    {"num_key_value_heads", 2}};
  const Bench bench(model, 11, 120);
  const std::string compute = head == 64 ? "compute=bf16" : "compute=f16";
  const auto run = [&](const Settings& placement) {
    return bench.run(
        bench.config(with({compute, "lora.rank=16", "train.token_tile=128", "optimizer.lr=1e-4"},
                          placement)),
        steps_of(20));
  };
  const Outcome reference = run({"memory.residency=resident", "memory.activations=keep"});
  const Settings streamed = {"memory.residency=stream", "memory.slots=2"};
  const Outcome offloaded = run(with(streamed, {"memory.activations=offload"}));
  CHECK(offloaded == reference);
  if (kKernelsOnly) return;
  CHECK(run(with(streamed, {"memory.activations=recompute"})) == reference);
  if (kSanitized) return;
  const int64_t between = (offloaded.device_bytes + reference.device_bytes) / 2;
  CHECK(run({fmt::format("memory.vram={}", between)}) == reference);
  const int64_t least = named_least(
      message_of(ErrorCode::DoesNotFit, [&] { run(with(streamed, {"memory.ram=1"})); }));
  const Outcome from_disk = run(with(streamed, {fmt::format("memory.ram={}", least)}));
  CHECK(from_disk == reference);
  CHECK(from_disk.disk_bytes > 0);
}

// Few steps, but of every kind: for compute-sanitizer over cuBLASLt (scripts/gpu_sanitize.sh).
TEST_CASE("gpu: each kind of model, streamed, is what it is resident") {
  const auto [model, settings] = GENERATE(
      std::pair(TinyModelOptions{Family::Llama, 3, DType::BF16, true}, Settings{"compute=bf16"}),
      std::pair(TinyModelOptions{Family::Gpt2, 3, DType::F32, false}, Settings{"compute=f16"}),
      std::pair(tiny_qwen3(), Settings{"compute=f32"}),
      std::pair(tiny_phi3(), Settings{"compute=bf16", "lora.dora=true"}),
      std::pair(TinyModelOptions{Family::Llama, 3, DType::F32, false},
                Settings{"compute=f32", "lora.dora=true", kWhole}));
  const Bench bench(model, 11);
  const auto run = [&](const Settings& placement) {
    return bench.run(bench.config(with(settings, placement)), 1);
  };
  const Outcome streamed =
      run({"memory.residency=stream", "memory.slots=2", "memory.activations=offload"});
  if (!kKernelsOnly)
    CHECK(streamed == run({"memory.residency=resident", "memory.activations=keep"}));
}

TEST_CASE("gpu: placement changes no bit of a run with magnitudes and matrices in full") {
  const std::string compute = GENERATE("compute=f32", "compute=bf16", "compute=f16");
  if (kKernelsOnly && compute != "compute=f16") return;
  const Bench bench({Family::Llama, 4, DType::BF16, true}, 23);
  const auto run = [&](const char* residency, const char* slots) {
    return bench.run(bench.config({compute, "lora.dora=true", kWhole, residency, slots}),
                     steps_of(4));
  };
  const Outcome streamed = run("memory.residency=stream", "memory.slots=2");
  if (!kKernelsOnly) CHECK(streamed == run("memory.residency=resident", "memory.slots=2"));
}

TEST_CASE("gpu: 20 steps with a budget between streaming and residence change no bit") {
  const Bench bench({Family::Llama, 6, DType::BF16, false}, 11);
  const int64_t steps = steps_of(20);
  const Outcome reference =
      bench.run(bench.config({"compute=bf16", "memory.residency=resident"}), steps);
  const int64_t least = bench
                            .run(bench.config({"compute=bf16", "memory.residency=stream",
                                               "memory.slots=2", "memory.activations=offload"}),
                                 steps)
                            .device_bytes;
  for (const int64_t more : {0, 60'000, 120'000}) {
    if (kKernelsOnly && more != 60'000) continue;
    INFO(fmt::format("{} bytes above the least", more));
    const std::string budget = fmt::format("memory.vram={}", least + more);
    const Outcome outcome = bench.run(bench.config({"compute=bf16", budget}), steps);
    CHECK(outcome == reference);
    CHECK(outcome.device_bytes <= least + more);
  }
}

// Nor does where tensors lie in their file: embedding and positions are read where it has them.
TEST_CASE("gpu: tensors at odd bytes of their file change no bit") {
  const Family family = GENERATE(Family::Llama, Family::Gpt2);
  const DType dtype = family == Family::Gpt2 ? DType::F32 : DType::BF16;
  const auto run = [&](int64_t spaces) {
    TinyModelOptions model{family, 3, dtype, true};
    model.spaces = spaces;
    const Bench bench(model, 11);
    return bench.run(bench.config({"compute=bf16", "memory.residency=stream"}), 1);
  };
  CHECK(run(3) == run(0));
}

TEST_CASE("gpu: a budget for host memory, odd blocks from disk in every step, changes no bit") {
  check_disk(5);
}
TEST_CASE("gpu: a budget for host memory, even blocks from disk in every step, changes no bit") {
  check_disk(6);
}

// The last model's window is wider than any number of positions can be.
TEST_CASE("gpu: losses and gradients are the CPU's to rounding") {
  const TinyModelOptions model = GENERATE(
      TinyModelOptions(), TinyModelOptions{Family::Gpt2}, tiny_qwen3(), tiny_phi3(),
      tiny_family("mistral", "MistralForCausalLM", {{"sliding_window", int64_t{INT32_MAX}}}));
  const bool dropout = GENERATE(false, true), dora = GENERATE(false, true);
  if (kSanitized && !(dropout && dora)) return;
  const Bench bench(model, 23);
  const RunConfig config =
      bench.config({"compute=f32", dropout ? "lora.dropout=0.2" : "lora.dropout=0",
                    dora ? "lora.dora=true" : "lora.dora=false"});
  check_gradients_in_f32(bench.run(config, 1), bench.run_on_cpu(config, 1));
}

TEST_CASE("gpu: gradients in bf16 are as near to f32 as the CPU's") {
  const TinyModelOptions model =
      GENERATE(TinyModelOptions(), TinyModelOptions{Family::Gpt2}, tiny_qwen3(), tiny_phi3());
  const Bench bench(model, 23);
  const RunConfig in_bf16 = bench.config({"compute=bf16", "lora.dropout=0"});
  const Outcome f32 = bench.run_on_cpu(bench.config({"compute=f32", "lora.dropout=0"}), 1),
                cpu = bench.run_on_cpu(in_bf16, 1), gpu = bench.run(in_bf16, 1);
  const auto of_gpu = gradient_errors(gpu, f32), of_cpu = gradient_errors(cpu, f32);
  for (size_t i = 0; i < of_gpu.size(); ++i) {
    INFO(of_gpu[i].first);
    CHECK(of_gpu[i].second <= 2 * of_cpu[i].second + 0x1p-7);  // two roundings more
  }
}

TEST_CASE("gpu: gradients of the embedding and the head are the CPU's to rounding") {
  const Bench bench(TinyModelOptions(), 23);
  const RunConfig config = bench.config({"compute=f32", "lora.dropout=0", kWhole});
  check_gradients_in_f32(bench.run(config, 1), bench.run_on_cpu(config, 1));
}

TEST_CASE("gpu: an adapter of the head has the CPU's gradients, wherever weights lie") {
  const Bench bench({Family::Llama, 3, DType::F32, false}, 23);
  const auto config = [&](const char* residency) {
    return bench.config({"compute=f32", "lora.dropout=0", "memory.slots=2", residency,
                         R"(lora.targets=["q_proj","lm_head"])"});
  };
  const RunConfig streamed = config("memory.residency=stream");
  const Outcome gpu = bench.run(streamed, 1);
  check_gradients_in_f32(gpu, bench.run_on_cpu(streamed, 1));
  CHECK(bench.run(config("memory.residency=resident"), 1) == gpu);
}

TEST_CASE("gpu: gradients in f16 are scaled, and as near to f32 as f16 is") {
  const TinyModelOptions model = GENERATE(TinyModelOptions(), TinyModelOptions{Family::Gpt2});
  const Bench bench(model, 23);
  const Outcome f32 = bench.run_on_cpu(bench.config({"compute=f32"}), 1);
  Outcome f16 = bench.run(bench.config({"compute=f16"}), 1);
  for (float& g : f16.gradients) g /= 65536;
  CHECK(std::abs(f16.losses[0] - f32.losses[0]) <= 1e-3 * f32.losses[0]);
  CHECK(relative_error(f16.gradients, f32.gradients) <= 1e-2);
}

TEST_CASE("gpu: a step whose f16 gradients overflow changes nothing but the scale") {
  const Bench bench(TinyModelOptions(), 23);
  const RunConfig config = bench.config({"compute=f16"});
  const Outcome untouched = bench.run(config, 0);
  const Outcome outcome = bench.run(
      config, 3, [](Trainer& trainer) { trainer.loss_scale() = LossScale(true, 0x1p60); },
      [](Trainer& trainer) {
        CHECK(trainer.loss_scale().skipped() == 3);
        CHECK(trainer.loss_scale().scale() == 0x1p57f);
      });
  CHECK(outcome.adapter == untouched.adapter);
  CHECK(outcome.moments == untouched.moments);
}
