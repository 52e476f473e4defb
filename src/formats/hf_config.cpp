// config.json to ModelConfig: v4 and v5 key spellings, the defaults of transformers' config
// classes, and the refusal of everything that would change the arithmetic. Called by ModelFolder
// (hf_model.cpp).
#include <algorithm>

#include "core/log.h"
#include "formats/hf_model.h"
#include "formats/json_fields.h"

namespace lema {
namespace {

// Far above every published model; products of any three stay below 2^63.
constexpr int64_t kMaxWidth = int64_t{1} << 20;
constexpr int64_t kMaxHeads = int64_t{1} << 14;
constexpr int64_t kMaxBlocks = int64_t{1} << 14;
constexpr int64_t kMaxVocabulary = int64_t{1} << 24;
constexpr int64_t kMaxPositions = int64_t{1} << 31;
constexpr double kMaxNumber = 1e15;

constexpr std::string_view kSupported = "llama (LlamaForCausalLM), gpt2 (GPT2LMHeadModel)";

// Ids outside the vocabulary (tiny test models keep the class defaults) can never be produced: they
// are left out.
std::vector<int64_t> eos_ids(const JsonFields& fields, std::vector<int64_t> missing, int64_t V,
                             const Value& config) {
  constexpr std::string_view key = "eos_token_id";
  const Value* value = config.find(key);
  std::vector<int64_t> ids = std::move(missing);
  if (value) {
    ids.clear();
    if (value->is_int()) {
      ids.push_back(value->as_int());
    } else if (value->is_array()) {
      for (const Value& id : value->as_array()) {
        if (!id.is_int()) fields.wrong(key, id, "integer");
        ids.push_back(id.as_int());
      }
    } else if (!value->is_null()) {
      fields.wrong(key, *value, "integer or list of integers");
    }
  }
  std::erase_if(ids, [&](int64_t id) {
    const bool outside = id < 0 || id >= V;
    if (outside && value)
      log::warn("{}: {} is outside the vocabulary of {} and is ignored", fields.place(key), id, V);
    return outside;
  });
  return ids;
}

void require_text(const JsonFields& fields, std::string_view key, std::string_view missing,
                  std::initializer_list<std::string_view> supported) {
  const std::string found = fields.text(key, missing);
  if (std::find(supported.begin(), supported.end(), found) == supported.end())
    fail(ErrorCode::BadInput, "{}: \"{}\" is not supported; supported: {}", fields.place(key),
         escaped(found), fmt::join(supported, ", "));
}

void require_flag(const JsonFields& fields, std::string_view key, bool supported) {
  if (fields.boolean(key, supported) != supported)
    fail(ErrorCode::BadInput, "{}: {} is not supported", fields.place(key), !supported);
}

// The dictionary of RoPE settings: a non-empty rope_scaling (v4) hides rope_parameters (v5), as
// PreTrainedConfig.convert_rope_params_to_dict does.
const Value* rope_dictionary(const JsonFields& fields) {
  for (std::string_view key : {"rope_scaling", "rope_parameters"}) {
    const Value* value = fields.find(key);
    if (!value) continue;
    if (!value->is_object()) fields.wrong(key, *value, "object");
    if (value->as_object().empty()) continue;
    for (const auto& [member, x] : value->as_object())
      if (x.is_object())
        fail(ErrorCode::BadInput, "{}: settings per layer type (\"{}\") are not supported",
             fields.place(key), escaped(member));
    return value;
  }
  return nullptr;
}

RopeConfig parse_rope(const JsonFields& fields, int64_t max_positions) {
  static const Value empty{Value::Object{}};
  const Value* found = rope_dictionary(fields);
  const JsonFields rope(found ? *found : empty, fields.source());
  RopeConfig config;
  config.theta = rope.number(
      "rope_theta", fields.number("rope_theta", config.theta, 1e-6, kMaxNumber), 1e-6, kMaxNumber);
  for (const JsonFields* where : {&fields, &rope})
    if (where->number("partial_rotary_factor", 1, 0, kMaxNumber) != 1)
      fail(ErrorCode::BadInput, "{}: only 1 is supported", where->place("partial_rotary_factor"));

  const std::string_view key = rope.find("rope_type") ? "rope_type" : "type";
  const std::string type = rope.text(key, "default");
  if (type == "default") return config;
  if (type != "llama3")
    fail(ErrorCode::BadInput, "{}: RoPE type \"{}\" is not supported; supported: default, llama3",
         rope.place(key), escaped(type));
  config.kind = RopeConfig::Kind::Llama3;
  config.factor = rope.required_number("factor", 1, kMaxNumber);
  config.low_freq_factor = rope.required_number("low_freq_factor", 1e-6, kMaxNumber);
  config.high_freq_factor = rope.required_number("high_freq_factor", 1e-6, kMaxNumber);
  if (config.high_freq_factor <= config.low_freq_factor)
    fail(ErrorCode::BadInput, "{}: found {}, expected more than low_freq_factor {}",
         rope.place("high_freq_factor"), config.high_freq_factor, config.low_freq_factor);
  // A value at the top level wins over the dictionary's, as in standardize_rope_params.
  const char* original = "original_max_position_embeddings";
  config.original_max_positions = fields.integer(
      original, rope.integer(original, max_positions, 1, kMaxPositions), 1, kMaxPositions);
  return config;
}

// LlamaConfig. pretraining_tp only reordered sums in old transformers and is ignored by v5, as
// here; attention_dropout acts in training alone and base-model dropout is not applied.
void parse_llama(const JsonFields& fields, const Value& json, ModelConfig& config) {
  config.family = Family::Llama;
  config.C = fields.integer("hidden_size", 4096, 1, kMaxWidth);
  config.F = fields.integer("intermediate_size", 11008, 1, kMaxWidth);
  config.L = fields.integer("num_hidden_layers", 32, 1, kMaxBlocks);
  config.H = fields.integer("num_attention_heads", 32, 1, kMaxHeads);
  config.Hkv = fields.integer("num_key_value_heads", config.H, 1, kMaxHeads);
  config.V = fields.integer("vocab_size", 32000, 1, kMaxVocabulary);
  config.max_positions = fields.integer("max_position_embeddings", 2048, 1, kMaxPositions);
  config.norm_eps = fields.number("rms_norm_eps", 1e-6, 0, 1);
  config.attention_bias = fields.boolean("attention_bias", false);
  config.mlp_bias = fields.boolean("mlp_bias", false);
  config.tied_head = fields.boolean("tie_word_embeddings", false);
  require_text(fields, "hidden_act", "silu", {"silu", "swish"});
  if (!fields.find("head_dim") && config.C % config.H != 0)
    fail(ErrorCode::BadInput, "{}: {} is not a multiple of num_attention_heads {}",
         fields.place("hidden_size"), config.C, config.H);
  config.D = fields.integer("head_dim", config.C / config.H, 1, kMaxWidth);
  if (config.D % 2 != 0)
    fail(ErrorCode::BadInput, "{}: {} is odd; RoPE turns pairs", fields.place("head_dim"),
         config.D);
  if (config.H % config.Hkv != 0)
    fail(ErrorCode::BadInput, "{}: {} is not a multiple of num_key_value_heads {}",
         fields.place("num_attention_heads"), config.H, config.Hkv);
  config.rope = parse_rope(fields, config.max_positions);
  config.eos_ids = eos_ids(fields, {2}, config.V, json);
}

// GPT2Config.
void parse_gpt2(const JsonFields& fields, const Value& json, ModelConfig& config) {
  config.family = Family::Gpt2;
  config.C = fields.integer("n_embd", 768, 1, kMaxWidth / 4);
  config.F = fields.integer("n_inner", 4 * config.C, 1, kMaxWidth);
  config.L = fields.integer("n_layer", 12, 1, kMaxBlocks);
  config.H = config.Hkv = fields.integer("n_head", 12, 1, kMaxHeads);
  config.V = fields.integer("vocab_size", 50257, 1, kMaxVocabulary);
  config.max_positions = fields.integer("n_positions", 1024, 1, kMaxPositions);
  config.norm_eps = fields.number("layer_norm_epsilon", 1e-5, 0, 1);
  config.activation = Activation::GeluTanh;
  config.attention_bias = config.mlp_bias = true;
  config.tied_head = fields.boolean("tie_word_embeddings", true);
  config.rope.kind = RopeConfig::Kind::None;
  require_text(fields, "activation_function", "gelu_new", {"gelu_new"});
  require_flag(fields, "scale_attn_weights", true);
  require_flag(fields, "scale_attn_by_inverse_layer_idx", false);
  require_flag(fields, "reorder_and_upcast_attn", false);
  require_flag(fields, "add_cross_attention", false);
  if (config.C % config.H != 0)
    fail(ErrorCode::BadInput, "{}: {} is not a multiple of n_head {}", fields.place("n_embd"),
         config.C, config.H);
  config.D = config.C / config.H;
  config.eos_ids = eos_ids(fields, {50256}, config.V, json);
}

// `architectures` may be absent; else the class that this program mirrors must be in it.
void check_architecture(const JsonFields& fields, std::string_view wanted) {
  const Value* list = fields.find("architectures");
  if (!list) return;
  if (!list->is_array()) fields.wrong("architectures", *list, "list of strings");
  std::vector<std::string> found;
  for (const Value& entry : list->as_array()) {
    if (!entry.is_string()) fields.wrong("architectures", entry, "string");
    if (entry.as_string() == wanted) return;
    found.push_back(escaped(entry.as_string()));
  }
  fail(ErrorCode::BadInput, "{}: {} is not supported; supported: {}", fields.place("architectures"),
       fmt::join(found, ", "), kSupported);
}

}  // namespace

ModelConfig parse_model_config(const Value& config, const std::string& source) {
  const JsonFields fields(config, source);
  ModelConfig parsed;
  parsed.model_type = fields.text("model_type", "");
  if (const Value* quantised = fields.find("quantization_config")) {
    const Value* method = quantised->find("quant_method");
    fail(ErrorCode::BadInput, "{}: quantised weights ({}) are not supported",
         fields.place("quantization_config"),
         method && method->is_string() ? escaped(method->as_string()) : "no quant_method");
  }
  if (parsed.model_type == "llama") {
    check_architecture(fields, "LlamaForCausalLM");
    parse_llama(fields, config, parsed);
  } else if (parsed.model_type == "gpt2") {
    check_architecture(fields, "GPT2LMHeadModel");
    parse_gpt2(fields, config, parsed);
  } else if (parsed.model_type.empty()) {
    fail(ErrorCode::BadInput, "{}: no key \"model_type\"; supported: {}", source, kSupported);
  } else {
    fail(ErrorCode::BadInput, "{}: \"{}\" is not supported; supported: {}",
         fields.place("model_type"), escaped(parsed.model_type), kSupported);
  }
  return parsed;
}

}  // namespace lema
