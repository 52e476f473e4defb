// PEFT adapter folders in and out. train and merge read and write adapters here; a checkpoint is
// such a folder.
#include "formats/peft_adapter.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/log.h"
#include "formats/confined_path.h"
#include "formats/json.h"
#include "formats/json_fields.h"

namespace lema {
namespace {

constexpr const char* kConfigFile = "adapter_config.json";
constexpr const char* kWeightsFile = "adapter_model.safetensors";
constexpr std::string_view kPrefix = "base_model.model.";
constexpr std::string_view kSuffixA = ".lora_A.weight", kSuffixB = ".lora_B.weight";

// Keys whose set value changes what the adapter computes in a way that Adapter cannot say.
constexpr std::array kMustBeUnset = {"use_rslora",
                                     "use_dora",
                                     "lora_bias",
                                     "bias",
                                     "modules_to_save",
                                     "rank_pattern",
                                     "alpha_pattern",
                                     "layer_replication",
                                     "trainable_token_indices",
                                     "target_parameters",
                                     "use_qalora",
                                     "alora_invocation_tokens",
                                     "arrow_config",
                                     "use_bdlora",
                                     "megatron_config",
                                     "monteclora_config",
                                     "velora_config",
                                     "kasa_config"};

// Keys that only choose modules; the tensors of the file say which they were.
constexpr std::array kSelection = {"exclude_modules", "layers_to_transform", "layers_pattern"};

// Keys that are read above or below, or that act only on training's start or inside a refused
// option.
constexpr std::array kOther = {"peft_type",
                               "task_type",
                               "base_model_name_or_path",
                               "revision",
                               "auto_mapping",
                               "inference_mode",
                               "peft_version",
                               "r",
                               "lora_alpha",
                               "lora_dropout",
                               "fan_in_fan_out",
                               "target_modules",
                               "init_lora_weights",
                               "loftq_config",
                               "eva_config",
                               "corda_config",
                               "lora_ga_config",
                               "megatron_core",
                               "qalora_group_size",
                               "ensure_weight_tying"};

bool contains(const auto& list, std::string_view key) {
  return std::find(list.begin(), list.end(), key) != list.end();
}

bool is_unset(const Value& value) {
  switch (value.kind()) {
    case Value::Kind::Null:
      return true;
    case Value::Kind::Bool:
      return !value.as_bool();
    case Value::Kind::String:
      return value.as_string().empty() || value.as_string() == "none";
    case Value::Kind::Array:
      return value.as_array().empty();
    case Value::Kind::Object:
      return value.as_object().empty();
    default:
      return false;
  }
}

void check_keys(const Value& json, const JsonFields& fields) {
  for (const auto& [key, value] : json.as_object()) {
    if (contains(kMustBeUnset, key)) {
      if (!is_unset(value))
        fail(ErrorCode::BadInput, "{} = {} is not supported; only plain LoRA adapters are read",
             fields.place(key), escaped(dump_json(value)));
    } else if (!contains(kSelection, key) && !contains(kOther, key)) {
      log::warn("{}: unknown key, ignored", fields.place(escaped(key)));
    }
  }
}

// Initialisations such as PiSSA also rewrite the base weights, so their A and B mean nothing over
// the published base.
void check_initialisation(const JsonFields& fields) {
  const Value* init = fields.find("init_lora_weights");
  if (!init || init->is_bool()) return;
  if (!init->is_string()) fields.wrong("init_lora_weights", *init, "boolean or string");
  constexpr std::array kHarmless = {"gaussian", "eva", "orthogonal"};
  if (!contains(kHarmless, init->as_string()))
    fail(ErrorCode::BadInput,
         "{}: \"{}\" changes the base weights and is not supported; supported: true, false, {}",
         fields.place("init_lora_weights"), escaped(init->as_string()), fmt::join(kHarmless, ", "));
}

// Keys that are absent take LoraConfig's defaults.
AdapterConfig parse_config(const Value& json, const std::string& source) {
  const JsonFields fields(json, source);
  if (const std::string type = fields.text("peft_type", ""); type != "LORA")
    fail(ErrorCode::BadInput, "{}: found \"{}\", expected \"LORA\"", fields.place("peft_type"),
         escaped(type));
  if (const std::string task = fields.text("task_type", "CAUSAL_LM"); task != "CAUSAL_LM")
    fail(ErrorCode::BadInput, "{}: found \"{}\", expected \"CAUSAL_LM\"", fields.place("task_type"),
         escaped(task));
  check_keys(json, fields);
  check_initialisation(fields);

  AdapterConfig config;
  config.base_model = fields.text("base_model_name_or_path", "");
  config.rank = fields.integer("r", 8, 1, int64_t{1} << 16);
  config.alpha = fields.number("lora_alpha", 8, 0, 1e9);
  config.dropout = fields.number("lora_dropout", 0, 0, 1);
  config.fan_in_fan_out = fields.boolean("fan_in_fan_out", false);
  if (const Value* targets = fields.find("target_modules")) {
    if (targets->is_string()) {
      config.target_regex = targets->as_string();
    } else if (targets->is_array()) {
      for (const Value& target : targets->as_array()) {
        if (!target.is_string()) fields.wrong("target_modules", target, "string");
        config.target_modules.push_back(target.as_string());
      }
    } else {
      fields.wrong("target_modules", *targets, "string or list of strings");
    }
  }
  return config;
}

template <typename T>
std::vector<float> widen(const std::vector<std::byte>& raw, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  const T* in = reinterpret_cast<const T*>(raw.data());
  for (size_t i = 0; i < values.size(); ++i) values[i] = to_f32(in[i]);
  return values;
}

std::vector<float> read_as_f32(const SafetensorsFile& file, const TensorEntry& entry,
                               const std::string& place) {
  if (entry.dtype != DType::F32 && entry.dtype != DType::BF16 && entry.dtype != DType::F16)
    fail(ErrorCode::BadInput, "{} is {}, expected F32, BF16 or F16", place, name(entry.dtype));
  const int64_t count = entry.shape.elements();
  std::vector<std::byte> raw(static_cast<size_t>(entry.bytes));
  file.read(entry, raw.data());
  std::vector<float> values = entry.dtype == DType::F32    ? widen<float>(raw, count)
                              : entry.dtype == DType::BF16 ? widen<bf16>(raw, count)
                                                           : widen<f16>(raw, count);
  const auto bad =
      std::find_if_not(values.begin(), values.end(), [](float x) { return std::isfinite(x); });
  if (bad != values.end())
    fail(ErrorCode::BadInput, "{}: element {} is {}", place, bad - values.begin(), *bad);
  return values;
}

void add_tensor(const SafetensorsFile& file, const TensorEntry& entry, Adapter& adapter) {
  const std::string place =
      fmt::format("{}: tensor {}", file.file().path().string(), escaped(entry.name));
  std::string_view path = entry.name;
  const bool has_prefix = path.starts_with(kPrefix);
  if (has_prefix) path.remove_prefix(kPrefix.size());
  const bool is_a = path.ends_with(kSuffixA);
  if (!has_prefix || path.size() <= kSuffixA.size() || (!is_a && !path.ends_with(kSuffixB)))
    fail(ErrorCode::BadInput, "{} is not supported; expected {}MODULE{} or {}", place, kPrefix,
         kSuffixA, kSuffixB);
  path.remove_suffix(kSuffixA.size());
  const int64_t rank = adapter.config.rank;
  const int rank_axis = is_a ? 0 : 1;
  if (entry.shape.rank() != 2 || entry.shape[rank_axis] != rank || entry.shape[1 - rank_axis] < 1)
    fail(ErrorCode::BadInput, "{} is {}; r = {} of {} needs {}", place, entry.shape.str(), rank,
         kConfigFile, is_a ? fmt::format("[{}, in]", rank) : fmt::format("[out, {}]", rank));
  AdapterModule& module = adapter.modules[std::string(path)];
  module.rank = rank;
  (is_a ? module.in : module.out) = entry.shape[1 - rank_axis];
  (is_a ? module.a : module.b) = read_as_f32(file, entry, place);
}

// The 18 LoRA keys of PEFT 0.13 and before and the 6 base keys, which every version reads.
Value config_json(const AdapterConfig& config) {
  Value::Array targets(config.target_modules.begin(), config.target_modules.end());
  const auto whole = static_cast<int64_t>(config.alpha);
  const bool is_whole = static_cast<double>(whole) == config.alpha;
  return Value(Value::Object{
      {"auto_mapping", nullptr},
      {"base_model_name_or_path", config.base_model},
      {"revision", nullptr},
      {"peft_type", "LORA"},
      {"task_type", "CAUSAL_LM"},
      {"inference_mode", true},
      {"r", config.rank},
      {"target_modules",
       config.target_regex.empty() ? Value(std::move(targets)) : Value(config.target_regex)},
      {"lora_alpha", is_whole ? Value(whole) : Value(config.alpha)},
      {"lora_dropout", config.dropout},
      {"fan_in_fan_out", config.fan_in_fan_out},
      {"bias", "none"},
      {"use_rslora", false},
      {"modules_to_save", nullptr},
      {"init_lora_weights", true},
      {"layers_to_transform", nullptr},
      {"layers_pattern", nullptr},
      {"rank_pattern", Value::Object{}},
      {"alpha_pattern", Value::Object{}},
      {"megatron_config", nullptr},
      {"megatron_core", "megatron.core"},
      {"loftq_config", Value::Object{}},
      {"use_dora", false},
      {"layer_replication", nullptr},
  });
}

// The card's head is YAML, in which a JSON string is a string.
std::string model_card(const AdapterConfig& config) {
  const std::string base = dump_json(Value(config.base_model));
  return fmt::format(
      "---\nbase_model: {}\nlibrary_name: peft\npipeline_tag: text-generation\ntags:\n- lora\n- "
      "lema\n---\n\n"
      "# LoRA adapter\n\nRank {}, alpha {}, trained with lema over {}. The base model is needed "
      "beside it:\n\n"
      "```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
      "model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({}), \"PATH OF THIS "
      "FOLDER\")\n```\n",
      base, config.rank, config.alpha, base, base);
}

void write_tensors(const fs::path& path, const Adapter& adapter) {
  std::vector<TensorSpec> specs;
  std::map<std::string, const std::vector<float>*> values;
  for (const auto& [module_path, module] : adapter.modules) {
    check(module.rank == adapter.config.rank, "adapter module {}: rank {}", module_path,
          module.rank);
    check(std::ssize(module.a) == module.rank * module.in &&
              std::ssize(module.b) == module.out * module.rank,
          "adapter module {}: {} and {} values", module_path, module.a.size(), module.b.size());
    const std::string front = std::string(kPrefix) + module_path;
    specs.push_back({front + std::string(kSuffixA), DType::F32, {module.rank, module.in}});
    values[specs.back().name] = &module.a;
    specs.push_back({front + std::string(kSuffixB), DType::F32, {module.out, module.rank}});
    values[specs.back().name] = &module.b;
  }
  sort_as_reference_writer(specs);
  SafetensorsWriter writer(path, specs, {{"format", "pt"}});
  for (const TensorSpec& spec : specs)
    writer.write(values[spec.name]->data(),
                 std::ssize(*values[spec.name]) * int64_t{sizeof(float)});
  writer.finish();
}

}  // namespace

Adapter read_adapter(const fs::path& folder) {
  const std::string source = folder.string();
  const auto config_path = confined_path(folder, kConfigFile, source);
  if (!config_path)
    fail(ErrorCode::BadInput, "{}: no {}; expected a PEFT adapter folder", source, kConfigFile);
  const auto weights_path = confined_path(folder, kWeightsFile, source);
  if (!weights_path)
    fail(ErrorCode::BadInput, "{}: no {}{}", source, kWeightsFile,
         confined_path(folder, "adapter_model.bin", source)
             ? "; adapter_model.bin (a pickle) is not read: save it as safetensors with PEFT"
             : "");

  const Value json =
      parse_json(read_text(*config_path, JsonLimits{}.max_bytes), config_path->string());
  Adapter adapter;
  adapter.config = parse_config(json, config_path->string());
  const SafetensorsFile file(*weights_path);
  for (const TensorEntry& entry : file.tensors()) add_tensor(file, entry, adapter);
  for (const auto& [path, module] : adapter.modules)
    if (module.a.empty() || module.b.empty())
      fail(ErrorCode::BadInput, "{}: module {} has no {}", weights_path->string(), escaped(path),
           module.a.empty() ? "lora_A" : "lora_B");
  if (adapter.modules.empty())
    fail(ErrorCode::BadInput, "{}: holds no tensors", weights_path->string());

  // Adapter knows no layer ranges or exclusions: the exact module paths say the same.
  const bool selects = std::any_of(kSelection.begin(), kSelection.end(), [&](const char* key) {
    const Value* value = json.find(key);
    return value && !is_unset(*value);
  });
  if (selects || (adapter.config.target_modules.empty() && adapter.config.target_regex.empty())) {
    adapter.config.target_regex.clear();
    adapter.config.target_modules.clear();
    for (const auto& [path, module] : adapter.modules)
      adapter.config.target_modules.push_back(path);
  }
  return adapter;
}

void write_adapter(const fs::path& folder, const Adapter& adapter) {
  write_file(folder / kConfigFile, dump_json(config_json(adapter.config), 2, true));
  write_tensors(folder / kWeightsFile, adapter);
  write_file(folder / "README.md", model_card(adapter.config));
}

}  // namespace lema
