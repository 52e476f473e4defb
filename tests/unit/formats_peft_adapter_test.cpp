// PEFT adapters: what is written, what is read back, and every refusal.
#include <cmath>
#include <cstring>
#include <limits>

#include "formats/json.h"
#include "formats/peft_adapter.h"
#include "support/temp_folder.h"

using namespace lema;

namespace {

Adapter small_adapter() {
  Adapter adapter;
  adapter.config.base_model = "models/\"base\"";
  adapter.config.rank = 2;
  adapter.config.alpha = 16;
  adapter.config.dropout = 0.05;
  adapter.config.target_modules = {"q_proj", "down_proj"};
  AdapterModule q;
  q.rank = 2, q.in = 3, q.out = 4;
  for (int i = 0; i < 6; ++i) q.a.push_back(0.5f * static_cast<float>(i) - 1);
  for (int i = 0; i < 8; ++i) q.b.push_back(0.25f * static_cast<float>(i));
  adapter.modules["model.layers.0.self_attn.q_proj"] = q;
  AdapterModule down;
  down.rank = 2, down.in = 1, down.out = 3;
  down.a = {1, 2};
  down.b = {1, 2, 3, 4, 5, -0.0f};
  adapter.modules["model.layers.10.mlp.down_proj"] = down;
  return adapter;
}

const std::string kConfig = R"({"peft_type": "LORA", "r": 1, "target_modules": ["q"])";

// A folder with this config and a pair for module "m.q" (A [1, 2], B [2, 1]) unless other tensors
// are given.
void make(const TempFolder& folder, const std::string& config, std::vector<TensorSpec> specs = {},
          const std::vector<float>& values = {1, 2, 3, 4}) {
  folder.file("adapter_config.json", config);
  fs::remove(folder.path() / "adapter_model.safetensors");
  if (specs.empty())
    specs = {{"base_model.model.m.q.lora_A.weight", DType::F32, {1, 2}},
             {"base_model.model.m.q.lora_B.weight", DType::F32, {2, 1}}};
  SafetensorsWriter writer(folder.path() / "adapter_model.safetensors", specs, {{"format", "pt"}});
  int64_t bytes = 0;
  for (const TensorSpec& spec : specs) bytes += spec.shape.elements() * element_bytes(spec.dtype);
  std::vector<std::byte> raw(static_cast<size_t>(bytes));
  if (!values.empty())
    std::memcpy(raw.data(), values.data(), std::min(raw.size(), values.size() * 4));
  writer.write(raw.data(), bytes);
  writer.finish();
}

}  // namespace

TEST_CASE("an adapter reads back as it was written") {
  const TempFolder folder("peft_round_trip");
  const Adapter written = small_adapter();
  write_adapter(folder.path(), written);
  const Adapter read = read_adapter(folder.path());
  CHECK(read.config.base_model == written.config.base_model);
  CHECK((read.config.rank == 2 && read.config.alpha == 16 && read.config.dropout == 0.05));
  CHECK((!read.config.rslora && !read.config.dora && read.config.rank_pattern.empty()));
  CHECK(read.config.target_modules == written.config.target_modules);
  REQUIRE(read.modules.size() == 2);
  for (const auto& [path, module] : written.modules) {
    REQUIRE(read.modules.count(path) == 1);
    const AdapterModule& found = read.modules.at(path);
    CHECK((found.in == module.in && found.out == module.out && found.rank == module.rank));
    CHECK((found.a == module.a && found.b == module.b));
  }
  CHECK(std::signbit(read.modules.at("model.layers.10.mlp.down_proj").b[5]));
}

TEST_CASE("the written files are PEFT's") {
  const TempFolder folder("peft_written");
  write_adapter(folder.path(), small_adapter());
  CHECK(read_text(folder.path() / "adapter_config.json", 10000) == R"({
  "alpha_pattern": {},
  "auto_mapping": null,
  "base_model_name_or_path": "models/\"base\"",
  "bias": "none",
  "fan_in_fan_out": false,
  "inference_mode": true,
  "init_lora_weights": true,
  "layer_replication": null,
  "layers_pattern": null,
  "layers_to_transform": null,
  "loftq_config": {},
  "lora_alpha": 16,
  "lora_dropout": 0.05,
  "megatron_config": null,
  "megatron_core": "megatron.core",
  "modules_to_save": null,
  "peft_type": "LORA",
  "r": 2,
  "rank_pattern": {},
  "revision": null,
  "target_modules": [
    "q_proj",
    "down_proj"
  ],
  "task_type": "CAUSAL_LM",
  "use_dora": false,
  "use_rslora": false
})");
  const SafetensorsFile file(folder.path() / "adapter_model.safetensors");
  CHECK(file.metadata() == Metadata{{"format", "pt"}});
  const TensorEntry* a =
      file.find("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight");
  const TensorEntry* b =
      file.find("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight");
  REQUIRE((a != nullptr && b != nullptr));
  CHECK((a->shape == Shape{2, 3} && b->shape == Shape{4, 2} && a->dtype == DType::F32));
  const std::string card = read_text(folder.path() / "README.md", 10000);
  CHECK(card.starts_with("---\nbase_model: \"models/\\\"base\\\"\"\nlibrary_name: peft\n"));
}

TEST_CASE("half-precision tensors become f32") {
  const TempFolder folder("peft_half");
  const std::vector<TensorSpec> specs = {{"base_model.model.m.lora_A.weight", DType::BF16, {1, 2}},
                                         {"base_model.model.m.lora_B.weight", DType::F16, {2, 1}}};
  const std::vector<uint16_t> bits = {to_bf16(1.5f).bits, to_bf16(-2).bits, to_f16(0.25f).bits,
                                      to_f16(3).bits};
  std::vector<float> raw(2);
  std::memcpy(raw.data(), bits.data(), 8);
  make(folder, kConfig + "}", specs, raw);
  const Adapter adapter = read_adapter(folder.path());
  CHECK(adapter.modules.at("m").a == std::vector<float>{1.5f, -2});
  CHECK(adapter.modules.at("m").b == std::vector<float>{0.25f, 3});
}

TEST_CASE("keys that are absent take LoraConfig's defaults; selections are read") {
  const TempFolder folder("peft_defaults");
  make(folder, R"({"peft_type": "LORA", "target_modules": "All-Linear"})",
       {{"base_model.model.m.q.lora_A.weight", DType::F32, {8, 2}},
        {"base_model.model.m.q.lora_B.weight", DType::F32, {2, 8}}});
  Adapter adapter = read_adapter(folder.path());
  CHECK((adapter.config.rank == 8 && adapter.config.alpha == 8 && adapter.config.dropout == 0));
  CHECK(adapter.config.target_regex == "all-linear");
  make(folder,
       kConfig +
           R"(, "layers_to_transform": [0], "lora_bias": false, "kasa_config": null, "shiny": 1})");
  adapter = read_adapter(folder.path());
  CHECK(adapter.config.target_modules == std::vector<std::string>{"q"});
  CHECK((adapter.config.layers == std::vector<int64_t>{0} && adapter.config.exclude_regex.empty()));
  make(folder, kConfig + R"(, "layers_to_transform": 3, "layers_pattern": "h",
                             "exclude_modules": "x.*"})");
  adapter = read_adapter(folder.path());
  CHECK(
      (adapter.config.layers == std::vector<int64_t>{3} && adapter.config.exclude_regex == "x.*"));
  CHECK(adapter.config.layers_patterns == std::vector<std::string>{"h"});
  make(folder, R"({"peft_type": "LORA", "r": 1, "target_modules": null})");
  CHECK(read_adapter(folder.path()).config.target_modules == std::vector<std::string>{"m.q"});
}

TEST_CASE("options that change the arithmetic are refused by name") {
  const TempFolder folder("peft_options");
  for (const std::string option :
       {R"("bias": "all")", R"("lora_bias": true)", R"("layer_replication": [[0, 1]])",
        R"("trainable_token_indices": [1])", R"("target_parameters": ["x"])",
        R"("use_qalora": true)", R"("alora_invocation_tokens": [1])", R"("arrow_config": {"a": 1})",
        R"("use_bdlora": true)", R"("megatron_config": {"a": 1})"}) {
    make(folder, kConfig + ", " + option + "}");
    const std::string key = option.substr(1, option.find('"', 1) - 1);
    CHECK_BAD_INPUT(read_adapter(folder.path()), "adapter_config.json:1: " + key + " = ");
  }
  make(folder, kConfig + R"(, "init_lora_weights": "pissa_niter_4"})");
  CHECK_BAD_INPUT(read_adapter(folder.path()), "\"pissa_niter_4\" may change the base weights");
  make(folder, kConfig + R"(, "init_lora_weights": "gaussian"})");
  CHECK_NOTHROW(read_adapter(folder.path()));
  make(folder, R"({"peft_type": "IA3"})");
  CHECK_BAD_INPUT(read_adapter(folder.path()), "found \"IA3\", expected \"LORA\"");
  make(folder, kConfig + R"(, "task_type": "SEQ_CLS"})");
  CHECK_BAD_INPUT(read_adapter(folder.path()), "SEQ_CLS");
  make(folder, R"({"peft_type": "LORA", "r": 0})");
  CHECK_BAD_INPUT(read_adapter(folder.path()), "r: found 0");
  make(folder, kConfig + R"(, "lora_dropout": 1})");
  CHECK_BAD_INPUT(read_adapter(folder.path()), "lora_dropout: found 1, expected a number below 1");
  make(folder, R"({"peft_type": "LORA", "r": 1, "target_modules": "q", "layers_to_transform": 0})");
  CHECK_BAD_INPUT(read_adapter(folder.path()), "expected a list of names");
  make(folder, kConfig + R"(, "layers_to_transform": ["0"]})");
  CHECK_BAD_INPUT(read_adapter(folder.path()), "layers_to_transform: found string");
  make(folder, R"({"peft_type": "LORA", "target_modules": [1]})");
  CHECK_BAD_INPUT(read_adapter(folder.path()), "target_modules: found integer");
}

TEST_CASE("patterns, rsLoRA, DoRA, embeddings and full matrices are read and written") {
  const TempFolder folder("peft_options_read");
  Adapter written = small_adapter();
  written.config.rslora = written.config.dora = true;
  written.config.rank_pattern = {{"z.*down_proj", 3}, {"10\\.mlp\\.down_proj", 1}};
  written.config.alpha_pattern = {{"down_proj", 4.5}};
  written.config.modules_to_save = {"lm_head"};
  written.full["lm_head"] = {{1, 2, 3, 4, 5, 6}, {3, 2}};
  AdapterModule& down = written.modules["model.layers.10.mlp.down_proj"];
  down.rank = 1, down.a = {1}, down.b = {1, 2, 3}, down.magnitude = {4, 5, 6};
  written.modules["model.layers.0.self_attn.q_proj"].magnitude = {1, 2, 3, 4};
  write_adapter(folder.path(), written);
  const Adapter read = read_adapter(folder.path());
  CHECK((read.config.rslora && read.config.dora));
  // The writer sorts keys, as PEFT does.
  CHECK(read.config.rank_pattern == std::vector<std::pair<std::string, int64_t>>{
                                        {"10\\.mlp\\.down_proj", 1}, {"z.*down_proj", 3}});
  CHECK(read.config.alpha_pattern == written.config.alpha_pattern);
  CHECK(read.config.modules_to_save == written.config.modules_to_save);
  CHECK(read.full.at("lm_head").values == written.full["lm_head"].values);
  CHECK(read.modules.at("model.layers.10.mlp.down_proj").magnitude == down.magnitude);
  CHECK(read.modules.at("model.layers.10.mlp.down_proj").rank == 1);

  const std::string front = "base_model.model.m.embed";
  make(folder, kConfig + "}",
       {{front + ".lora_embedding_A", DType::F32, {1, 2}},
        {front + ".lora_embedding_B", DType::F32, {2, 1}}});
  CHECK(read_adapter(folder.path()).modules.at("m.embed").is_embedding);
}

TEST_CASE("tensors that contradict the config or each other are refused") {
  const TempFolder folder("peft_tensors");
  const std::string front = "base_model.model.m.q";
  const auto refused = [&](std::vector<TensorSpec> specs, std::string_view text,
                           std::vector<float> values = {}) {
    make(folder, kConfig + "}", std::move(specs), values);
    CHECK_BAD_INPUT(read_adapter(folder.path()), text);
  };
  const TensorSpec a{front + ".lora_A.weight", DType::F32, {1, 2}},
      b{front + ".lora_B.weight", DType::F32, {2, 1}};
  refused({a}, "module m.q has no lora_B");
  refused({b}, "module m.q has no lora_A");
  refused({{front + ".lora_A.weight", DType::F32, {2, 2}}, b},
          "r = 1 of adapter_config.json needs [1, in]");
  refused({a, {front + ".lora_B.weight", DType::F32, {2, 2}}}, "needs [out, 1]");
  refused({a, {front + ".lora_B.weight", DType::F32, {2}}}, "is [2]");
  refused({a, {front + ".lora_B.weight", DType::I32, {2, 1}}}, "is I32, expected F32");
  refused({a, b, {front + ".lora_magnitude_vector", DType::F32, {2}}}, "belongs to DoRA");
  refused({a, b, {"m.lora_A.weight", DType::F32, {1, 2}}}, "m.lora_A.weight is not supported");
  refused({{"base_model.model.lora_A.weight", DType::F32, {1, 2}}},
          "lora_A.weight is not supported");
  refused({a, b}, "lora_B.weight: element 1 is", {1, 2, 3, std::numeric_limits<float>::infinity()});
  refused({a, b}, "lora_A.weight: element 0 is nan", {std::nanf(""), 2, 3, 4});
}

TEST_CASE("missing files are named") {
  const TempFolder folder("peft_missing");
  CHECK_BAD_INPUT(read_adapter(folder.path() / "gone"), "gone: no such folder");
  CHECK_BAD_INPUT(read_adapter(folder.path()), "no adapter_config.json");
  folder.file("adapter_config.json", kConfig + "}");
  CHECK_BAD_INPUT(read_adapter(folder.path()), "no adapter_model.safetensors");
  folder.file("adapter_model.bin", "x");
  CHECK_BAD_INPUT(read_adapter(folder.path()), "adapter_model.bin (a pickle) is not read");
}
