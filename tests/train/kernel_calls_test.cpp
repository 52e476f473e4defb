// What start-up runs on a GPU, and the plan measures, is what a run calls: every call of every kind
// of model, set up by its shapes alone, is that call again; and real kernels take it.
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
  warm_up(cpu, 1, planned.forecast(0).plan.ops, calls);
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

TEST_CASE("kernel calls: the classes of rows") {
  CHECK(row_class(1) == 1);
  CHECK(row_class(2) == 2);
  CHECK(row_class(3) == 4);
  CHECK(row_class(2048) == 2048);
  CHECK(row_class(2049) == 4096);
}
