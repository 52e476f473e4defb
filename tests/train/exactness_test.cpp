// What must never change a bit: where weights lie, how many slots the ring has, what is recomputed
// or offloaded, how many threads work, whether a run was interrupted. All on a device whose copies
// arrive late.
#include <cmath>

#include "cpu/gemm_bf16.h"
#include "cpu/isa.h"
#include "support/catch.h"
#include "support/late_device.h"
#include "support/train_bench.h"

using namespace lema;
using namespace lema::test;

namespace {

class Bench : public TrainBench {
 public:
  using TrainBench::TrainBench;

  Outcome run(const RunConfig& config, bool in_place = false, int64_t steps = 4,
              std::optional<WaitsOf> forgotten = {}) const {
    return TrainBench::run(
        config, {std::make_unique<LateDevice>(in_place, forgotten), cpu_ops()}, steps,
        [](Trainer& trainer) {
          auto& device = dynamic_cast<LateDevice&>(trainer.device());
          // The CPU's kernel scratch is no device buffer.
          CHECK(device.allocated_bytes() + trainer.kernel_scratch_bytes() ==
                trainer.plan().placement.bytes(Tier::Device));
          CHECK(device.pinned_bytes() == trainer.plan().placement.bytes(Tier::Pinned));
        });
  }
};

}  // namespace

TEST_CASE("placement, slots, recompute, offload and threads change no bit") {
  const auto family = GENERATE(Family::Llama, Family::Gpt2);
  const auto blocks = GENERATE(int64_t{3}, int64_t{4});
  const auto dtype = GENERATE(DType::F32, DType::BF16);
  const Bench bench({family, blocks, dtype, blocks == 4}, 23);
  const std::string compute = dtype == DType::BF16 ? "compute=bf16" : "compute=f32";
  const Outcome reference =
      bench.run(bench.config({compute, "memory.residency=resident", "memory.activations=keep"}));
  CHECK(reference.h2d_bytes == 0);
  CHECK(reference.allocations_in_steps == 0);
  const std::vector<Settings> variants = {
      {"memory.residency=resident", "memory.activations=recompute"},
      {"memory.residency=resident", "memory.activations=offload"},
      {"memory.residency=stream", "memory.slots=2"},
      {"memory.residency=stream", "memory.slots=2", "memory.activations=offload", "threads=1"},
      {"memory.residency=stream", "memory.slots=3", "memory.activations=recompute", "threads=3"},
      {"memory.residency=stream", "memory.slots=7", "memory.activations=offload"},
      {"memory.residency=stream", "memory.disk=buffered"},
      {"memory.residency=stream", "memory.disk=direct"},
  };
  for (const auto& variant : variants) {
    const Settings settings = with({compute}, variant);
    INFO(fmt::format("{}", fmt::join(settings, " ")));
    const Outcome outcome = bench.run(bench.config(settings));
    CHECK(outcome == reference);
    CHECK(outcome.allocations_in_steps == 0);
    CHECK((outcome.h2d_bytes > 0) ==
          (settings[1] == "memory.residency=stream" || settings[2].ends_with("offload")));
  }
  // Weights where they are mapped, or where they were read to.
  for (const char* disk : {"auto", "mmap", "buffered", "direct"}) {
    INFO(disk);
    CHECK(bench.run(bench.config({compute, fmt::format("memory.disk={}", disk)}), true) ==
          reference);
  }
}

// The widest of each is what the other cases run on.
TEST_CASE("each kind of products changes no bit with placement or threads") {
  using cpu::Bf16Products;
  using cpu::Isa;
  const Bench bench({Family::Llama, 3, DType::BF16, false}, 23);
  struct Kind {
    const char* name;
    Isa isa;
    Bf16Products products;
  };
  for (const auto& [name, isa, products] :
       {Kind{"baseline", Isa::Baseline, Bf16Products::Widened},
        {"AVX2", Isa::Avx2, Bf16Products::Widened},
        {"AVX-512", Isa::Avx512, Bf16Products::Widened},
        {"AVX-512 with bf16", Isa::Avx512, Bf16Products::Avx512},
        {"AMX", Isa::Avx512, Bf16Products::Amx}}) {
    if (isa > cpu::widest_isa() || products > cpu::widest_bf16_products()) {
      WARN(name << ": this CPU lacks it, not run");
      continue;
    }
    cpu::use_isa(isa);
    cpu::use_bf16_products(products);
    for (const char* compute : {"compute=f32", "compute=bf16"}) {
      INFO(name << " " << compute);
      const Outcome reference = bench.run(
          bench.config({compute, "memory.residency=resident", "memory.activations=keep"}));
      for (const char* threads : {"threads=1", "threads=2"})
        CHECK(bench.run(bench.config({compute, "memory.residency=stream", "memory.slots=2",
                                      "memory.activations=offload", threads})) == reference);
    }
  }
  cpu::use_isa(cpu::widest_isa());
  cpu::use_bf16_products(cpu::widest_bf16_products());
}

TEST_CASE("norms of heads, windows, fused matrices and rows of two rotations change no bit") {
  const TinyModelOptions model = GENERATE(tiny_qwen3(), tiny_phi3());
  const Bench bench(model, 23);
  const Outcome reference =
      bench.run(bench.config({"memory.residency=resident", "memory.activations=keep"}));
  CHECK(reference.allocations_in_steps == 0);
  const std::vector<Settings> variants = {
      {"memory.activations=recompute"},
      {"memory.residency=stream", "memory.slots=2", "memory.activations=offload", "threads=3"}};
  for (const auto& variant : variants) {
    INFO(fmt::format("{}", fmt::join(variant, " ")));
    CHECK(bench.run(bench.config(variant)) == reference);
  }
  CHECK(bench.run(bench.config(), true) == reference);
}

TEST_CASE("magnitudes and matrices in full change no bit with placement either") {
  const auto family = GENERATE(Family::Llama, Family::Gpt2);
  const Bench bench({.family = family, .L = 3}, 23);
  const std::string embedding = family == Family::Gpt2 ? "wte" : "embed_tokens";
  const Settings method = {
      "compute=f32", "lora.dora=true", "lora.rslora=true", "lora.plus_ratio=4",
      "lora.modules_to_save=[\"" + embedding + "\",\"lm_head\"]"};
  const auto run = [&](const Settings& settings) {
    return bench.run(bench.config(with(method, settings)));
  };
  const Outcome reference = run({"memory.residency=resident", "memory.activations=keep"});
  for (const auto& variant : std::vector<Settings>{
           {"memory.residency=resident", "memory.activations=recompute", "threads=1"},
           {"memory.residency=stream", "memory.slots=2", "memory.activations=offload"},
           {"memory.residency=stream", "memory.slots=3", "memory.disk=buffered", "threads=3"}}) {
    const Outcome outcome = run(variant);
    CHECK(outcome == reference);
    CHECK(outcome.allocations_in_steps == 0);
  }
}

TEST_CASE("adapters of embedding and head change no bit with placement either") {
  const auto dtype = GENERATE(DType::F32, DType::BF16);
  const Bench bench({Family::Llama, 3, dtype, false}, 23);
  const auto run = [&](Settings settings) {
    settings.push_back(dtype == DType::BF16 ? "compute=bf16" : "compute=f32");
    settings.push_back("lora.targets=[\"embed_tokens\",\"q_proj\",\"lm_head\"]");
    return bench.run(bench.config(settings));
  };
  const Outcome reference = run({"memory.residency=resident", "memory.activations=keep"});
  CHECK(reference.slots.back().site.field == Field::Head);
  for (const auto& variant : std::vector<Settings>{
           {"memory.residency=resident", "memory.activations=recompute", "threads=1"},
           {"memory.residency=stream", "memory.slots=2", "memory.activations=offload"},
           {"memory.residency=stream", "memory.slots=3", "memory.disk=buffered", "threads=3"}}) {
    const Outcome outcome = run(variant);
    CHECK(outcome == reference);
    CHECK(outcome.allocations_in_steps == 0);
  }
}

TEST_CASE("a budget between streaming and residence changes no bit and is kept") {
  const Bench bench({Family::Llama, 6, DType::F32, false}, 11);
  const Outcome reference = bench.run(bench.config({"compute=f32", "memory.residency=resident"}));
  const int64_t least = bench
                            .run(bench.config({"compute=f32", "memory.residency=stream",
                                               "memory.slots=2", "memory.activations=offload"}))
                            .device_bytes;
  // The number that a refusal names is enough.
  const std::string refusal = message_of(ErrorCode::DoesNotFit, [&] {
    bench.run(bench.config({"compute=f32", "memory.vram=1"}));
  });
  CHECK(named_least(refusal) == least);
  int64_t fewest = INT64_MAX;
  for (const int64_t budget :
       {least - 4096, least, least + 60'000, least + 120'000, least + 250'000, least + 2'000'000}) {
    INFO(fmt::format("least {}, budget {}", least, budget));
    const RunConfig config = bench.config({"compute=f32", fmt::format("memory.vram={}", budget)});
    if (budget < least) {
      CHECK(named_least(message_of(ErrorCode::DoesNotFit, [&] { bench.run(config); })) == least);
      continue;
    }
    const Outcome outcome = bench.run(config);
    CHECK(outcome == reference);
    CHECK(outcome.device_bytes <= budget);
    CHECK(outcome.h2d_bytes <= fewest);  // more memory, no more copies
    fewest = outcome.h2d_bytes;
  }
  CHECK(fewest == 0);
}

// What is read in place otherwise is copied then.
TEST_CASE("tensors at odd bytes of their file change no bit") {
  const Family family = GENERATE(Family::Llama, Family::Gpt2);
  const auto run = [&](int64_t spaces, const char* residency) {
    TinyModelOptions model{family, 3, DType::F32, true};
    model.spaces = spaces;
    const TrainBench bench(model, 11);
    return bench.run(bench.config({residency}), {make_cpu_device(), cpu_ops()}, 2);
  };
  const Outcome reference = run(0, "memory.residency=auto");
  CHECK(run(3, "memory.residency=auto") == reference);
  CHECK(run(1, "memory.residency=stream") == reference);
}

// The control arm of the tests above: each kind of wait is needed, and its absence is seen.
TEST_CASE("a forgotten wait turns the comparison red") {
  const Bench bench({Family::Llama, 5, DType::F32, false}, 11);
  const RunConfig config = bench.config({"compute=f32", "memory.residency=stream", "memory.slots=2",
                                         "memory.activations=offload", "train.micro_batch_size=2"});
  const Outcome reference = bench.run(config);
  const auto differs = [&](WaitsOf forgotten) {
    try {
      return !(bench.run(config, false, 4, forgotten) == reference);
    } catch (const Error&) {  // a loss of NaN
      return true;
    }
  };
  CHECK(differs({Queue::Compute, Queue::H2D}));
  CHECK(differs({Queue::Compute, Queue::D2H}));
  CHECK(differs({Queue::H2D, Queue::Compute}));
  CHECK(differs({Queue::D2H, Queue::Compute}));
  // Copies to the device learn of those to the host from Compute; a queue runs in order by itself.
  CHECK_FALSE(differs({Queue::H2D, Queue::D2H}));
  CHECK_FALSE(differs({Queue::H2D, Queue::H2D}));
}

TEST_CASE("slots that share their bytes turn the comparison red") {
  const Bench bench({Family::Llama, 5, DType::F32, false}, 11);
  const RunConfig config =
      bench.config({"compute=f32", "memory.residency=stream", "memory.slots=2"});
  const Outcome reference = bench.run(config);
  const auto run = [&](int64_t slots) {
    auto device = std::make_unique<LateDevice>();
    device->alias_slots(slots);
    return bench.TrainBench::run(config, {std::move(device), cpu_ops()}, 4);
  };
  CHECK(run(0) == reference);
  bool differs = false;
  try {
    differs = !(run(2) == reference);
  } catch (const Error&) {  // a loss that is not finite
    differs = true;
  }
  CHECK(differs);
}

TEST_CASE("micro-batches and packing agree to rounding") {
  const TinyModelOptions model =
      GENERATE(TinyModelOptions(), TinyModelOptions{Family::Gpt2}, tiny_qwen3(), tiny_phi3());
  const Bench bench(model, 23);
  const Outcome one = bench.run(bench.config({"compute=f32", "lora.dropout=0"}), false, 1);
  for (const char* setting :
       {"train.micro_batch_size=1", "train.micro_batch_size=2", "data.packing=false"}) {
    INFO(setting);
    const Outcome other =
        bench.run(bench.config({"compute=f32", "lora.dropout=0", setting}), false, 1);
    CHECK(std::abs(other.losses[0] - one.losses[0]) <= 1e-6 * one.losses[0]);
    const auto expect_close = [&](const AdapterSlot& slot, char tensor, int64_t begin,
                                  int64_t count) {
      double difference = 0, norm = 0;
      for (int64_t i = begin; i < begin + count; ++i) {
        const double expected = one.gradients[static_cast<size_t>(i)],
                     found = other.gradients[static_cast<size_t>(i)];
        difference += std::pow(found - expected, 2);
        norm += std::pow(expected, 2);
      }
      INFO(slot.site.path << " " << tensor);
      CHECK(std::sqrt(difference / norm) <= 1e-5);
    };
    for (const AdapterSlot& slot : one.slots) {
      expect_close(slot, 'A', slot.a_offset, slot.rank * slot.site.in);
      expect_close(slot, 'B', slot.b_offset, slot.site.out * slot.rank);
    }
  }
}
