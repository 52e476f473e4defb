// adapter_config.json in and out: which of PEFT's many keys lema has, which it may ignore and which
// it must refuse. Used by read_adapter and write_adapter.
#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "core/log.h"
#include "formats/json.h"
#include "formats/json_fields.h"
#include "formats/peft_adapter.h"

namespace lema {
namespace {

// Keys whose set value changes what the adapter computes in a way that Adapter cannot say, and what
// a user can do about it.
struct Refused {
  std::string_view key, way_out;
};
constexpr std::string_view kMerge = "merge it with PEFT (merge_and_unload) and use the result";
constexpr std::array<Refused, 14> kMustBeUnset = {
    {{"bias", "trained biases are not read: merge it with PEFT, or train it with bias none"},
     {"lora_bias", "the bias of lora_B is not read: merge it with PEFT, or train it without"},
     {"trainable_token_indices", "train the embedding with modules_to_save instead"},
     {"ensure_weight_tying", "train the embedding and the head apart, as PEFT does without it"},
     {"layer_replication", kMerge},
     {"target_parameters", kMerge},
     {"use_qalora", kMerge},
     {"alora_invocation_tokens", kMerge},
     {"arrow_config", kMerge},
     {"use_bdlora", kMerge},
     {"megatron_config", kMerge},
     {"monteclora_config", kMerge},
     {"velora_config", kMerge},
     {"kasa_config", kMerge}}};

// Keys that are read below, or that act only on training's start or inside a refused option.
constexpr std::array<std::string_view, 27> kOther = {"peft_type",
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
                                                     "exclude_modules",
                                                     "layers_to_transform",
                                                     "layers_pattern",
                                                     "use_rslora",
                                                     "use_dora",
                                                     "rank_pattern",
                                                     "alpha_pattern",
                                                     "modules_to_save",
                                                     "init_lora_weights",
                                                     "loftq_config",
                                                     "eva_config",
                                                     "corda_config",
                                                     "lora_ga_config",
                                                     "megatron_core",
                                                     "qalora_group_size"};

template <typename List>
bool contains(const List& list, std::string_view key) {
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
  constexpr size_t kMostNamed = 8;
  std::vector<std::string> unknown;
  for (const auto& [key, value] : json.as_object()) {
    const auto refused =
        std::find_if(kMustBeUnset.begin(), kMustBeUnset.end(),
                     [&key = key](const Refused& refusal) { return refusal.key == key; });
    if (refused != kMustBeUnset.end()) {
      if (!is_unset(value))
        fail(ErrorCode::BadInput, "{} = {} is not supported; {}", fields.place(key),
             escaped(dump_json(value)), refused->way_out);
    } else if (!contains(kOther, key)) {
      unknown.push_back(escaped(key));
    }
  }
  const size_t count = unknown.size();
  if (count == 0) return;
  unknown.resize(std::min(count, kMostNamed));
  log::warn("{}: unknown keys, ignored: {}{}", fields.source(), fmt::join(unknown, ", "),
            count > kMostNamed ? fmt::format(" and {} more", count - kMostNamed) : "");
}

// Initialisations such as PiSSA also rewrite the base weights, so their A and B mean nothing over
// the published base: only those known to leave it alone are read.
void check_initialisation(const JsonFields& fields) {
  const Value* init = fields.find("init_lora_weights");
  if (!init || init->is_bool()) return;
  if (!init->is_string()) fields.wrong("init_lora_weights", *init, "boolean or string");
  constexpr std::array<std::string_view, 3> kHarmless = {"gaussian", "eva", "orthogonal"};
  if (!contains(kHarmless, init->as_string()))
    fail(ErrorCode::BadInput,
         "{}: \"{}\" may change the base weights and is not supported; supported: true, false, {}",
         fields.place("init_lora_weights"), escaped(init->as_string()), fmt::join(kHarmless, ", "));
}

void check_count(const JsonFields& fields, std::string_view key, size_t count) {
  if (std::cmp_greater(count, kMaxEntries))
    fail(ErrorCode::BadInput, "{}: found {} entries, at most {} are allowed", fields.place(key),
         count, kMaxEntries);
}

std::vector<std::string> strings(const JsonFields& fields, std::string_view key,
                                 const Value& value) {
  std::vector<std::string> list;
  check_count(fields, key, value.as_array().size());
  for (const Value& item : value.as_array()) {
    if (!item.is_string()) fields.wrong(key, item, "string");
    list.push_back(item.as_string());
  }
  return list;
}

std::string lower(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return text;
}

// One string (an expression) or a list of them (names).
void read_choice(const JsonFields& fields, std::string_view key, std::string& one,
                 std::vector<std::string>& list) {
  const Value* value = fields.find(key);
  if (!value) return;
  if (value->is_string())
    one = value->as_string();
  else if (value->is_array())
    list = strings(fields, key, *value);
  else
    fields.wrong(key, *value, "string or list of strings");
}

// One layer or a list of them.
std::vector<int64_t> layers(const JsonFields& fields) {
  constexpr std::string_view kKey = "layers_to_transform";
  const Value* value = fields.find(kKey);
  if (!value) return {};
  if (value->is_int()) return {value->as_int()};
  if (!value->is_array()) fields.wrong(kKey, *value, "integer or list of integers");
  check_count(fields, kKey, value->as_array().size());
  std::vector<int64_t> list;
  for (const Value& item : value->as_array()) {
    if (!item.is_int()) fields.wrong(kKey, item, "integer");
    list.push_back(item.as_int());
  }
  return list;
}

// {"regular expression": number, ...}; `convert` checks one number.
template <typename T, typename Convert>
std::vector<std::pair<std::string, T>> pattern(const JsonFields& fields, std::string_view key,
                                               Convert convert) {
  std::vector<std::pair<std::string, T>> list;
  const Value* value = fields.find(key);
  if (!value) return list;
  if (!value->is_object()) fields.wrong(key, *value, "object");
  check_count(fields, key, value->as_object().size());
  const JsonFields members(*value, fields.place(key));
  for (const auto& [name, number] : value->as_object())
    list.emplace_back(name, convert(members, name));
  return list;
}

}  // namespace

AdapterConfig parse_adapter_config(const Value& json, const std::string& source) {
  constexpr int64_t kMaxRank = int64_t{1} << 16;
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
  config.rank = fields.integer("r", 8, 1, kMaxRank);
  config.alpha = fields.number("lora_alpha", 8, 0, 1e9);
  config.dropout = fields.number("lora_dropout", 0, 0, 1);
  if (config.dropout == 1)
    fail(ErrorCode::BadInput, "{}: found 1, expected a number below 1: nothing would be left",
         fields.place("lora_dropout"));
  config.fan_in_fan_out = fields.boolean("fan_in_fan_out", false);
  config.rslora = fields.boolean("use_rslora", false);
  config.dora = fields.boolean("use_dora", false);
  config.rank_pattern =
      pattern<int64_t>(fields, "rank_pattern", [](const JsonFields& f, const std::string& name) {
        return f.required_integer(name, 1, kMaxRank);
      });
  config.alpha_pattern = pattern<double>(
      fields, "alpha_pattern",
      [](const JsonFields& f, const std::string& name) { return f.required_number(name, 0, 1e9); });
  if (const Value* saved = fields.find("modules_to_save")) {
    if (!saved->is_array()) fields.wrong("modules_to_save", *saved, "list of strings");
    config.modules_to_save = strings(fields, "modules_to_save", *saved);
  }
  read_choice(fields, "target_modules", config.target_regex, config.target_modules);
  if (lower(config.target_regex) == kAllLinear) config.target_regex = kAllLinear;
  read_choice(fields, "exclude_modules", config.exclude_regex, config.exclude_modules);
  config.layers = layers(fields);
  std::string pattern_alone;
  read_choice(fields, "layers_pattern", pattern_alone, config.layers_patterns);
  if (!pattern_alone.empty()) config.layers_patterns = {pattern_alone};
  if (!config.layers.empty() && !config.target_regex.empty())
    fail(ErrorCode::BadInput,
         "{}: stands beside target_modules that are one string; expected a list of names",
         fields.place("layers_to_transform"));
  return config;
}

// The 18 LoRA keys of PEFT 0.13 and before and the 6 base keys, which every version reads.
Value adapter_config_json(const AdapterConfig& config) {
  const auto number = [](double x) {
    const auto whole = static_cast<int64_t>(x);
    return static_cast<double>(whole) == x ? Value(whole) : Value(x);
  };
  const auto list = [](const std::vector<std::string>& names) {
    return Value(Value::Array(names.begin(), names.end()));
  };
  Value::Object ranks, alphas;
  for (const auto& [key, rank] : config.rank_pattern) ranks.emplace_back(key, rank);
  for (const auto& [key, alpha] : config.alpha_pattern) alphas.emplace_back(key, number(alpha));
  return Value(Value::Object{
      {"auto_mapping", nullptr},
      {"base_model_name_or_path", config.base_model},
      {"revision", nullptr},
      {"peft_type", "LORA"},
      {"task_type", "CAUSAL_LM"},
      {"inference_mode", true},
      {"r", config.rank},
      {"target_modules",
       config.target_regex.empty() ? list(config.target_modules) : Value(config.target_regex)},
      {"lora_alpha", number(config.alpha)},
      {"lora_dropout", config.dropout},
      {"fan_in_fan_out", config.fan_in_fan_out},
      {"bias", "none"},
      {"use_rslora", config.rslora},
      {"modules_to_save", config.modules_to_save.empty() ? Value() : list(config.modules_to_save)},
      {"init_lora_weights", true},
      {"layers_to_transform", nullptr},
      {"layers_pattern", nullptr},
      {"rank_pattern", std::move(ranks)},
      {"alpha_pattern", std::move(alphas)},
      {"megatron_config", nullptr},
      {"megatron_core", "megatron.core"},
      {"loftq_config", Value::Object{}},
      {"use_dora", config.dora},
      {"layer_replication", nullptr},
  });
}

}  // namespace lema
