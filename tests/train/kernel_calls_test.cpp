// What start-up runs on a GPU, and the plan measures, is what a run calls: every call of every kind
// of model, set up by what is noted of it, is noted as the same again; and real kernels take it.
#include <algorithm>
#include <fstream>
#include <set>

#include "support/train_bench.h"
#include "train/kernel_setup.h"
#include "train/plan_training.h"
#include "train/recording_ops.h"
#include "train/warm_up.h"

using namespace lema;
using namespace lema::test;

namespace {

TinyModelOptions with_biases() {
  TinyModelOptions options;
  options.settings = {{"attention_bias", true}, {"mlp_bias", true}};
  return options;
}

bool has(const std::set<std::string>& keys, std::string_view kernel, std::string_view what) {
  return std::any_of(keys.begin(), keys.end(), [&](const std::string& key) {
    return key.starts_with(kernel) && contains(key, std::string(what));
  });
}

std::set<std::string> check_calls(const TinyModelOptions& model, const Settings& settings) {
  const TrainBench bench(model, 23);
  RunConfig config = bench.config(with({"device=cpu", "compute=bf16"}, settings));
  config.data.eval = config.data.train;
  PlannedRun planned(config);
  const Forecast forecast = planned.forecast(0);
  const std::vector<KernelCall> calls = planned.trace().run_calls;
  const Backend cpu = {make_cpu_device(), cpu_ops()};
  std::set<std::string> keys;
  std::string noted;
  const std::unique_ptr<Ops> ops =
      make_recording_ops([&](const KernelCall& call) { noted = call.key(); });
  for (const KernelCall& call : calls) {
    INFO(call.key());
    CHECK(keys.insert(call.key()).second);
    KernelSetup(*cpu.device, *ops, call, KernelSetup::Values::Random).run();
    CHECK(noted == call.key());
  }
  warm_up(cpu, 1, forecast.plan.ops, calls);
  return keys;
}

}  // namespace

TEST_CASE("kernel calls: those of a run are set up as they are") {
  const TinyModelOptions gpt2{Family::Gpt2};
  for (const TinyModelOptions& model :
       {TinyModelOptions(), with_biases(), gpt2, tiny_qwen3(), tiny_phi3()})
    for (const Settings& settings : {Settings{}, Settings{"lora.dora=true", "lora.dropout=0"}})
      check_calls(model, settings);
  check_calls({}, {R"(lora.modules_to_save=["embed_tokens","lm_head"])"});
  check_calls(gpt2, {R"(lora.modules_to_save=["wte","lm_head"])"});
  check_calls({}, {R"(lora.targets=["q_proj"])", "train.micro_batch_size=1"});
  check_calls({Family::Llama, 3, DType::F32, false},
              {R"(lora.targets=["q_proj","lm_head"])", "lora.rank=4", "lora.dropout=0"});
}

// A safetensors header ends at any byte, where 16 of the table may not be read at once.
TEST_CASE("kernel calls: where a table lies is a part of the call") {
  const Backend cpu = {make_cpu_device(), cpu_ops()};
  std::vector<KernelCall> noted;
  const std::unique_ptr<Ops> ops =
      make_recording_ops([&](const KernelCall& call) { noted.push_back(call); });
  KernelCall call{Kernel::Embedding, DType::BF16, 3, 8};
  call.weight = DType::BF16;
  for (const int64_t offset : {0, 8, 3}) {
    call.table_offset = offset;
    KernelSetup(*cpu.device, *ops, call, KernelSetup::Values::Random).run();
    CHECK(noted.back().table_offset == offset);
    CHECK(noted.back() == call);
  }
  CHECK(noted[0].key() != noted[1].key());
  CHECK(noted[1].key() != noted[2].key());
}

// The mean of such rows is two long ones and a half.
TEST_CASE("kernel calls: no micro-batch is larger than a run's largest") {
  const TempFolder folder("lema_mean");
  const fs::path rows = folder.path() / "rows.jsonl";
  {
    std::ofstream out(rows);
    for (const int length : {96, 24, 96, 24})
      out << fmt::format("{{\"tokens\":[{}]}}\n",
                         fmt::join(std::vector<int>(static_cast<size_t>(length), 1), ","));
  }
  check_calls({}, {"data.train=" + rows.string(), "data.shuffle=false", "train.batch_size=4",
                   "train.micro_batch_size=2", "train.max_steps=1"});
}

TEST_CASE("kernel calls: joined weights, biases, sums, rows that lie apart and evaluations show") {
  const std::set<std::string> llama = check_calls({}, {});
  CHECK(has(llama, "linear BF16", "&"));
  CHECK(has(llama, "linear BF16", " +="));
  CHECK(!has(llama, "linear", "+b"));
  CHECK(has(llama, "head finish", "+grad"));
  CHECK(std::any_of(llama.begin(), llama.end(), [](const std::string& key) {
    return key.starts_with("head finish") && !contains(key, "+grad");
  }));
  CHECK(has(check_calls(with_biases(), {}), "linear BF16", "+bF32"));
  CHECK(!has(check_calls({Family::Gpt2}, {}), "linear", "&"));
  CHECK(has(check_calls({Family::Llama, 3, DType::F32, false},
                        {R"(lora.targets=["q_proj","lm_head"])"}),
            "linear", "gaps"));
}

TEST_CASE("kernel calls: what a block keeps is aligned, whatever its sizes") {
  ModelConfig config;
  config.C = config.F = 24, config.H = config.Hkv = 3, config.D = 8, config.qk_norm = true;
  for (int64_t tokens = 1; tokens < 6; ++tokens) {
    const KeptActivations kept =
        kept_block(config, DType::BF16, tokens, reinterpret_cast<std::byte*>(uintptr_t{1} << 40));
    const std::byte* end = nullptr;
    for (const void* data : {kept.lse.data, kept.qkv.data, kept.qk.data, kept.o.data,
                             kept.x_mid.data, kept.mlp_in.data}) {
      CHECK(reinterpret_cast<uintptr_t>(data) % 64 == 0);
      CHECK(static_cast<const std::byte*>(data) > end);
      end = static_cast<const std::byte*>(data);
    }
    const int64_t last = (end - reinterpret_cast<std::byte*>(uintptr_t{1} << 40)) +
                         kept.mlp_in.rows * kept.mlp_in.cols * 2;
    CHECK(last <= kept_block_bytes(config, DType::BF16, tokens));
  }
}

TEST_CASE("kernel calls: the classes of rows") {
  CHECK(row_class(1) == 1);
  CHECK(row_class(2) == 2);
  CHECK(row_class(3) == 4);
  CHECK(row_class(2048) == 2048);
  CHECK(row_class(2049) == 4096);
}
