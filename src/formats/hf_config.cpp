// config.json to ModelConfig: v4 and v5 key spellings, the defaults of transformers' config
// classes, and the refusal of everything that would change the arithmetic. Called by ModelFolder
// (hf_model.cpp).
#include <algorithm>

#include "core/log.h"
#include "formats/hf_model.h"
#include "formats/hf_rope.h"
#include "formats/json_fields.h"

namespace lema {
namespace {

// Far above every published model; products of any three stay below 2^63.
constexpr int64_t kMaxWidth = int64_t{1} << 20;
constexpr int64_t kMaxHeads = int64_t{1} << 14;
constexpr int64_t kMaxBlocks = int64_t{1} << 14;
constexpr int64_t kMaxVocabulary = int64_t{1} << 24;

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

// What tells one family of Llama's design from another: the class defaults of transformers' config
// and its switches.
struct LlamaLike {
  std::string_view model_type, architecture;
  int64_t C, F, Hkv, V, max_positions;  // Hkv 0: as many as query heads
  double norm_eps;
  int64_t head_dim;  // 0: C / H
  std::vector<int64_t> eos_ids;
};
const LlamaLike kLlamaLikes[] = {
    {"llama", "LlamaForCausalLM", 4096, 11008, 0, 32000, 2048, 1e-6, 0, {2}},
    {"mistral", "MistralForCausalLM", 4096, 14336, 8, 32000, 131072, 1e-6, 0, {2}},
    {"qwen2", "Qwen2ForCausalLM", 4096, 22016, 32, 151936, 32768, 1e-6, 0, {}},
    {"qwen3", "Qwen3ForCausalLM", 4096, 22016, 32, 151936, 32768, 1e-6, 128, {}},
    {"phi3", "Phi3ForCausalLM", 3072, 8192, 0, 32064, 4096, 1e-5, 0, {32000}},
};

std::string supported_models() {
  std::vector<std::string> names;
  for (const LlamaLike& like : kLlamaLikes)
    names.push_back(fmt::format("{} ({})", like.model_type, like.architecture));
  names.push_back("gpt2 (GPT2LMHeadModel)");
  return fmt::format("{}", fmt::join(names, ", "));
}

// Whether each block is one of sliding attention, as layer_types says; nullopt where it is missing.
std::optional<std::vector<bool>> sliding_blocks(const JsonFields& fields, int64_t L) {
  const Value* types = fields.find("layer_types");
  if (!types) return std::nullopt;
  if (!types->is_array()) fields.wrong("layer_types", *types, "list of strings");
  if (std::ssize(types->as_array()) != L)
    fail(ErrorCode::BadInput, "{}: found {} entries, expected {}", fields.place("layer_types"),
         types->as_array().size(), L);
  std::vector<bool> sliding;
  for (const Value& type : types->as_array()) {
    if (!type.is_string()) fields.wrong("layer_types", type, "string");
    sliding.push_back(type.as_string() == "sliding_attention");
    if (!sliding.back() && type.as_string() != "full_attention")
      fail(ErrorCode::BadInput,
           "{}: \"{}\" is not supported; supported: full_attention, sliding_attention",
           fields.place("layer_types"), escaped(type.as_string()));
  }
  return sliding;
}

// Per block: Qwen's windows stand in blocks from max_window_layers on, or where layer_types says;
// those of other families in every block. A sliding_window of null means none, a missing key the
// class's default.
std::vector<int64_t> parse_windows(const JsonFields& fields, const Value& json,
                                   const ModelConfig& config) {
  const bool is_qwen = config.model_type == "qwen2" || config.model_type == "qwen3";
  const bool has_default = is_qwen || config.model_type == "mistral";
  const bool is_missing = json.find("sliding_window") == nullptr;
  int64_t window =
      fields.integer("sliding_window", has_default && is_missing ? 4096 : 0, 1, kMaxPositions);
  if (is_qwen && !fields.boolean("use_sliding_window", false)) window = 0;
  if (config.model_type == "llama") window = 0;  // LlamaConfig has no such key
  const int64_t first = is_qwen ? fields.integer("max_window_layers", 28, 0, kMaxPositions) : 0;
  const std::optional<std::vector<bool>> sliding = sliding_blocks(fields, config.L);
  std::vector<int64_t> windows(static_cast<size_t>(config.L), 0);
  for (size_t block = 0; block < windows.size(); ++block) {
    const bool is_sliding = sliding ? (*sliding)[block] : static_cast<int64_t>(block) >= first;
    if (is_sliding) windows[block] = window;
    const bool is_impossible = is_qwen ? is_sliding && window == 0 : is_sliding != (window > 0);
    if (sliding && is_impossible)
      fail(ErrorCode::BadInput, "{}: {}_attention in a {} model {} a sliding_window in use",
           fields.place("layer_types"), is_sliding ? "sliding" : "full", config.model_type,
           window > 0 ? "with" : "without");
  }
  return windows;
}

void parse_heads(const LlamaLike& like, const JsonFields& fields, const Value& json,
                 ModelConfig& config) {
  config.H = fields.integer("num_attention_heads", 32, 1, kMaxHeads);
  const bool takes_default = like.Hkv > 0 && json.find("num_key_value_heads") == nullptr;
  config.Hkv =
      fields.integer("num_key_value_heads", takes_default ? like.Hkv : config.H, 1, kMaxHeads);
  if (!fields.find("head_dim") && like.head_dim == 0 && config.C % config.H != 0)
    fail(ErrorCode::BadInput, "{}: {} is not a multiple of num_attention_heads {}",
         fields.place("hidden_size"), config.C, config.H);
  config.D = fields.integer("head_dim", like.head_dim > 0 ? like.head_dim : config.C / config.H, 1,
                            kMaxWidth);
  if (config.D % 2 != 0)
    fail(ErrorCode::BadInput, "{}: {} is odd; RoPE turns pairs", fields.place("head_dim"),
         config.D);
  if (config.H % config.Hkv != 0)
    fail(ErrorCode::BadInput, "{}: {} is not a multiple of num_key_value_heads {}",
         fields.place("num_attention_heads"), config.H, config.Hkv);
}

// LlamaConfig and its kin. pretraining_tp only reordered sums in old transformers and is ignored by
// v5, as here; dropouts act in training alone and base-model dropout is not applied.
void parse_llama_like(const LlamaLike& like, const JsonFields& fields, const Value& json,
                      ModelConfig& config) {
  const bool is_llama = like.model_type == "llama", is_qwen3 = like.model_type == "qwen3",
             is_phi3 = like.model_type == "phi3";
  config.family = Family::Llama;
  config.C = fields.integer("hidden_size", like.C, 1, kMaxWidth);
  config.F = fields.integer("intermediate_size", like.F, 1, kMaxWidth);
  config.L = fields.integer("num_hidden_layers", 32, 1, kMaxBlocks);
  parse_heads(like, fields, json, config);
  config.V = fields.integer("vocab_size", like.V, 1, kMaxVocabulary);
  config.max_positions =
      fields.integer("max_position_embeddings", like.max_positions, 1, kMaxPositions);
  config.norm_eps = fields.number("rms_norm_eps", like.norm_eps, 0, 1);
  config.o_bias = (is_llama || is_qwen3) && fields.boolean("attention_bias", false);
  config.qkv_bias = config.o_bias || like.model_type == "qwen2";
  config.mlp_bias = is_llama && fields.boolean("mlp_bias", false);
  config.qk_norm = is_qwen3;
  config.is_fused = is_phi3;
  config.tied_head = fields.boolean("tie_word_embeddings", false);
  require_text(fields, "hidden_act", "silu", {"silu", "swish"});
  config.windows = parse_windows(fields, json, config);
  config.rope = parse_rope(fields, config, is_phi3);
  config.max_positions = stretched_positions(config.rope, config.max_positions);
  config.eos_ids = eos_ids(fields, like.eos_ids, config.V, json);
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
  config.qkv_bias = config.o_bias = config.mlp_bias = true;
  config.windows.assign(static_cast<size_t>(config.L), 0);
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
    if (found.size() < 4) found.push_back(escaped(entry.as_string()));
  }
  fail(ErrorCode::BadInput, "{}: {} is not supported; supported: {}", fields.place("architectures"),
       fmt::join(found, ", "), supported_models());
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
  if (fields.find("per_layer_config"))
    fail(ErrorCode::BadInput, "{}: blocks of different kinds are not supported",
         fields.place("per_layer_config"));
  if (parsed.model_type.empty())
    fail(ErrorCode::BadInput, "{}: no key \"model_type\"; supported: {}", source,
         supported_models());
  if (parsed.model_type == "gpt2") {
    check_architecture(fields, "GPT2LMHeadModel");
    parse_gpt2(fields, config, parsed);
    return parsed;
  }
  for (const LlamaLike& like : kLlamaLikes) {
    if (like.model_type != parsed.model_type) continue;
    check_architecture(fields, like.architecture);
    parse_llama_like(like, fields, config, parsed);
    return parsed;
  }
  fail(ErrorCode::BadInput, "{}: \"{}\" is not supported; supported: {}",
       fields.place("model_type"), escaped(parsed.model_type), supported_models());
}

}  // namespace lema
