// Key by key; what differs between the architectures is which config class the numbers go to.
#include "formats/gguf_config.h"

#include <cmath>

#include "formats/gguf_rope.h"

namespace lema {
namespace {

constexpr int64_t kMaxSize = int64_t{1} << 31;
constexpr int64_t kMaxBlocks = int64_t{1} << 14;
constexpr double kMaxNumber = 1e15;

// Keys whose value, if it is none of what stands here, makes the file more than its architecture's
// plain model.
void refuse_extensions(const GgufArchitecture& architecture, const JsonFields& metadata) {
  const auto refuse = [&](const std::string& key) {
    fail(ErrorCode::BadInput, "{} is not supported in a {} file", metadata.place(key),
         architecture.name);
  };
  if (metadata.text("general.type", "model") != "model") refuse("general.type");
  if (metadata.integer("split.count", 1, 0, kMaxSize) > 1) refuse("split.count");
  const std::string experts = architecture.key("expert_count");
  if (metadata.integer(experts, 0, 0, kMaxSize) != 0) refuse(experts);
  for (const char* member : {"logit_scale", "embedding_scale", "residual_scale", "attention.scale",
                             "rope.scaling.yarn_log_multiplier", "rope.scaling.yarn_ext_factor",
                             "rope.scaling.yarn_attn_factor"}) {
    const std::string key = architecture.key(member);
    if (const Value* value = metadata.find(key);
        value && !(value->is_number() && value->as_number() == 1))
      refuse(key);
  }
}

// The keys that every config class but GPT-2's shares.
void set_llama_keys(const GgufFile& file, const GgufArchitecture& architecture,
                    const JsonFields& metadata, const GgufSizes& sizes, Value& config) {
  config.set("hidden_size", sizes.C);
  config.set("intermediate_size", sizes.F);
  config.set("num_hidden_layers", sizes.L);
  config.set("num_attention_heads", sizes.H);
  config.set("num_key_value_heads", sizes.Hkv);
  config.set("head_dim", sizes.D);
  config.set("vocab_size", sizes.V);
  config.set("max_position_embeddings", sizes.max_positions);
  config.set("hidden_act", "silu");
  config.set("rms_norm_eps",
             metadata.required_number(architecture.key("attention.layer_norm_rms_epsilon"), 0, 1));
  config.set("tie_word_embeddings", file.find("output.weight") == nullptr);
  if (architecture.name == "llama" || architecture.name == "qwen3")
    config.set("attention_bias", file.find("blk.0.attn_output.bias") != nullptr ||
                                     file.find("blk.0.attn_q.bias") != nullptr);
  if (architecture.name == "llama")
    config.set("mlp_bias", file.find("blk.0.ffn_gate.bias") != nullptr);
}

// A llama file with a window is what Hugging Face calls mistral; phi3's config has one of its own.
void set_window(const GgufArchitecture& architecture, const JsonFields& metadata,
                const GgufSizes& sizes, Value& config) {
  const std::string key = architecture.key("attention.sliding_window");
  const int64_t window = metadata.integer(key, 0, 0, kMaxSize);
  const bool acts = window != 0 && window < sizes.max_positions;
  if (architecture.name == "phi3") {
    config.set("sliding_window", acts ? Value(window) : Value());
  } else if (acts && architecture.name == "llama") {
    config.set("architectures", Value::Array{"MistralForCausalLM"});
    config.set("model_type", "mistral");
    config.set("sliding_window", window);
  } else if (acts) {
    fail(ErrorCode::BadInput, "{} is not supported in a {} file", metadata.place(key),
         architecture.name);
  }
}

std::vector<float> read_factors(const GgufFile& file, const GgufTensor& tensor, int64_t count) {
  if (tensor.shape != Shape{count})
    fail(ErrorCode::BadInput, "{} is {}, expected [{}]", file.place(tensor), tensor.shape.str(),
         count);
  std::vector<float> values(static_cast<size_t>(count));
  file.read(tensor, 0, count, values.data());
  return values;
}

Value as_array(const std::vector<float>& factors) {
  Value::Array array;
  for (const float factor : factors) array.emplace_back(static_cast<double>(factor));
  return array;
}

// longrope, by the two lists of factors. The file's attention factor is left out where it is the
// one that the lengths give.
Value longrope(const GgufFile& file, const GgufArchitecture& architecture,
               const JsonFields& metadata, const GgufSizes& sizes) {
  const GgufTensor *longs = file.find(kLongFactors), *shorts = file.find(kShortFactors);
  if (!longs || !shorts)
    fail(ErrorCode::BadInput, "{}: no tensor {} beside {}", file.path().string(),
         longs ? kShortFactors : kLongFactors, longs ? kLongFactors : kShortFactors);
  const int64_t original = metadata.required_integer(
      architecture.key("rope.scaling.original_context_length"), 1, kMaxSize);
  Value scaling =
      Value::Object{{"rope_type", "longrope"},
                    {"short_factor", as_array(read_factors(file, *shorts, sizes.rope_dim / 2))},
                    {"long_factor", as_array(read_factors(file, *longs, sizes.rope_dim / 2))},
                    {"original_max_position_embeddings", original}};
  const double ratio = static_cast<double>(sizes.max_positions) / static_cast<double>(original);
  const double expected =
      ratio <= 1 ? 1 : std::sqrt(1 + std::log(ratio) / std::log(static_cast<double>(original)));
  const double found =
      metadata.number(architecture.key("rope.scaling.attn_factor"), expected, 0, kMaxNumber);
  if (!(std::abs(found - expected) <= 1e-6 * expected)) scaling.set("attention_factor", found);
  return scaling;
}

// linear and yarn, by key; null when there is no scaling.
Value keyed_scaling(const GgufArchitecture& architecture, const JsonFields& metadata) {
  const auto key = [&](std::string_view member) {
    return architecture.key(fmt::format("rope.{}", member));
  };
  const std::string type = metadata.text(key("scaling.type"), "");
  // Files older than the type have linear scaling's factor under another key.
  const double old = metadata.number(key("scale_linear"), 1, 1e-6, kMaxNumber);
  const double factor = metadata.number(key("scaling.factor"), old, 1e-6, kMaxNumber);
  if (metadata.number(key("scaling.attn_factor"), 1, 0, kMaxNumber) != 1)
    fail(ErrorCode::BadInput, "{}: only 1 is supported without longrope",
         metadata.place(key("scaling.attn_factor")));
  if (type == "linear" || (type.empty() && factor != 1))
    return factor == 1 ? Value()
                       : Value(Value::Object{{"rope_type", "linear"}, {"factor", factor}});
  if (type == "yarn") {
    Value scaling = Value::Object{{"rope_type", "yarn"}, {"factor", factor}};
    scaling.set("original_max_position_embeddings",
                metadata.required_integer(key("scaling.original_context_length"), 1, kMaxSize));
    for (const char* beta : {"beta_fast", "beta_slow"}) {
      const std::string name = key(fmt::format("scaling.yarn_{}", beta));
      if (metadata.find(name)) scaling.set(beta, metadata.number(name, 1, 1e-6, kMaxNumber));
    }
    return scaling;
  }
  if (!type.empty() && type != "none")
    fail(ErrorCode::BadInput,
         "{}: RoPE type \"{}\" is not supported; supported: none, linear, yarn, llama3 by {}, "
         "longrope by {} and {}",
         metadata.place(key("scaling.type")), escaped(type), kRopeFactors, kLongFactors,
         kShortFactors);
  if (type == "none" && factor != 1)
    fail(ErrorCode::BadInput, "{}: found {} without a scaling",
         metadata.place(key("scaling.factor")), factor);
  return {};
}

void set_rope(const GgufFile& file, const GgufArchitecture& architecture,
              const JsonFields& metadata, const GgufSizes& sizes, Value& config) {
  const double theta = metadata.number(architecture.key("rope.freq_base"), 10000, 1e-6, kMaxNumber);
  config.set("rope_theta", theta);
  if (sizes.rope_dim != sizes.D)
    config.set("partial_rotary_factor",
               static_cast<double>(sizes.rope_dim) / static_cast<double>(sizes.D));
  if (architecture.name == "phi3")
    config.set("original_max_position_embeddings",
               metadata.integer(architecture.key("rope.scaling.original_context_length"),
                                sizes.max_positions, 1, kMaxSize));
  Value scaling;
  if (file.find(kLongFactors) || file.find(kShortFactors)) {
    scaling = longrope(file, architecture, metadata, sizes);
  } else if (const GgufTensor* factors = file.find(kRopeFactors)) {
    if (const Value other = keyed_scaling(architecture, metadata); !other.is_null())
      fail(ErrorCode::BadInput, "{}: beside another RoPE scaling", file.place(*factors));
    if (auto found = llama3_scaling(read_factors(file, *factors, sizes.D / 2), theta,
                                    sizes.max_positions, file.place(*factors)))
      scaling = std::move(*found);
  } else {
    scaling = keyed_scaling(architecture, metadata);
  }
  if (!scaling.is_null()) config.set("rope_scaling", std::move(scaling));
}

void set_gpt2_keys(const GgufFile& file, const JsonFields& metadata, const GgufSizes& sizes,
                   Value& config) {
  config.set("n_embd", sizes.C);
  config.set("n_inner", sizes.F);
  config.set("n_layer", sizes.L);
  config.set("n_head", sizes.H);
  config.set("n_positions", sizes.max_positions);
  config.set("vocab_size", sizes.V);
  config.set("activation_function", "gelu_new");
  config.set("layer_norm_epsilon",
             metadata.required_number("gpt2.attention.layer_norm_epsilon", 0, 1));
  config.set("tie_word_embeddings", file.find("output.weight") == nullptr);
}

}  // namespace

GgufSizes read_gguf_sizes(const GgufFile& file, const GgufArchitecture& architecture,
                          const JsonFields& metadata) {
  const auto key = [&](const char* member) { return architecture.key(member); };
  GgufSizes sizes;
  sizes.C = metadata.required_integer(key("embedding_length"), 1, kMaxSize);
  sizes.F = metadata.required_integer(key("feed_forward_length"), 1, kMaxSize);
  sizes.L = metadata.required_integer(key("block_count"), 1, kMaxBlocks);
  sizes.H = metadata.required_integer(key("attention.head_count"), 1, kMaxSize);
  sizes.Hkv = metadata.integer(key("attention.head_count_kv"), sizes.H, 1, kMaxSize);
  sizes.max_positions = metadata.required_integer(key("context_length"), 1, kMaxSize);
  sizes.D = metadata.integer(key("attention.key_length"), sizes.C / sizes.H, 1, kMaxSize);
  sizes.rope_dim = metadata.integer(key("rope.dimension_count"), sizes.D, 1, kMaxSize);
  const auto require_head_size = [&](const char* member, int64_t found) {
    if (found != sizes.D)
      fail(ErrorCode::BadInput, "{}: found {}, only the head size {} is supported",
           metadata.place(key(member)), found, sizes.D);
  };
  require_head_size("attention.value_length",
                    metadata.integer(key("attention.value_length"), sizes.D, 1, kMaxSize));
  if (architecture.name != "phi3" || sizes.rope_dim > sizes.D)
    require_head_size("rope.dimension_count", sizes.rope_dim);

  const GgufTensor* embedding = file.find("token_embd.weight");
  if (!embedding)
    fail(ErrorCode::BadInput, "{}: no tensor token_embd.weight", file.path().string());
  sizes.V = embedding->shape[0];
  const int64_t V = metadata.integer(key("vocab_size"), sizes.V, 1, kMaxSize);
  if (V != sizes.V)
    fail(ErrorCode::BadInput, "{}: found {}, the embedding has {} rows",
         metadata.place(key("vocab_size")), V, sizes.V);
  return sizes;
}

Value gguf_config_json(const GgufFile& file, const GgufArchitecture& architecture,
                       const JsonFields& metadata, const GgufSizes& sizes, DType dtype) {
  refuse_extensions(architecture, metadata);
  Value config = Value::Object{{"architectures", Value::Array{architecture.model_class}},
                               {"model_type", architecture.model_type}};
  if (architecture.model_type == "gpt2") {
    set_gpt2_keys(file, metadata, sizes, config);
  } else {
    set_llama_keys(file, architecture, metadata, sizes, config);
    set_window(architecture, metadata, sizes, config);
    set_rope(file, architecture, metadata, sizes, config);
  }
  config.set("torch_dtype", torch_dtype_name(dtype));
  return config;
}

bool is_config_tensor(std::string_view tensor) {
  return tensor == kRopeFactors || tensor == kLongFactors || tensor == kShortFactors;
}

std::string_view torch_dtype_name(DType dtype) {
  return dtype == DType::BF16 ? "bfloat16" : dtype == DType::F16 ? "float16" : "float32";
}

}  // namespace lema
