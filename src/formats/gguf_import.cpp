// The llama architecture of GGUF as LlamaConfig and Hugging Face tensors: key by key, tensor by
// tensor, with every key that would change the arithmetic and that LlamaConfig cannot express
// refused.
#include "formats/gguf_import.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <unordered_set>

#include "formats/gguf_rope.h"
#include "formats/json_fields.h"

namespace lema {
namespace {

constexpr int64_t kMaxSize = int64_t{1} << 31;
constexpr int64_t kMaxBlocks = int64_t{1} << 14;

struct LlamaSizes {
  int64_t C = 0, F = 0, L = 0, H = 0, Hkv = 0, D = 0, V = 0, max_positions = 0;
};

struct TensorName {
  std::string_view gguf, hugging_face;
};
constexpr std::array<TensorName, 3> kModelNames = {{
    {"token_embd.weight", "model.embed_tokens.weight"},
    {"output_norm.weight", "model.norm.weight"},
    {"output.weight", "lm_head.weight"},
}};
constexpr std::array<TensorName, 16> kBlockNames = {{
    {"attn_norm.weight", "input_layernorm.weight"},
    {"attn_q.weight", "self_attn.q_proj.weight"},
    {"attn_q.bias", "self_attn.q_proj.bias"},
    {"attn_k.weight", "self_attn.k_proj.weight"},
    {"attn_k.bias", "self_attn.k_proj.bias"},
    {"attn_v.weight", "self_attn.v_proj.weight"},
    {"attn_v.bias", "self_attn.v_proj.bias"},
    {"attn_output.weight", "self_attn.o_proj.weight"},
    {"attn_output.bias", "self_attn.o_proj.bias"},
    {"ffn_norm.weight", "post_attention_layernorm.weight"},
    {"ffn_gate.weight", "mlp.gate_proj.weight"},
    {"ffn_gate.bias", "mlp.gate_proj.bias"},
    {"ffn_up.weight", "mlp.up_proj.weight"},
    {"ffn_up.bias", "mlp.up_proj.bias"},
    {"ffn_down.weight", "mlp.down_proj.weight"},
    {"ffn_down.bias", "mlp.down_proj.bias"},
}};

// Keys whose value, if it is none of what stands here, makes the file more than a plain Llama.
void refuse_extensions(const JsonFields& metadata, const LlamaSizes& sizes) {
  const auto refuse = [&](std::string_view key) {
    fail(ErrorCode::BadInput, "{} is not supported in a llama file", metadata.place(key));
  };
  if (metadata.text("general.type", "model") != "model") refuse("general.type");
  if (metadata.integer("split.count", 1, 0, kMaxSize) > 1) refuse("split.count");
  if (metadata.integer("llama.expert_count", 0, 0, kMaxSize) != 0) refuse("llama.expert_count");
  if (const int64_t window = metadata.integer("llama.attention.sliding_window", 0, 0, kMaxSize);
      window != 0 && window < sizes.max_positions)
    refuse("llama.attention.sliding_window");
  for (std::string_view key : {"llama.logit_scale", "llama.embedding_scale", "llama.residual_scale",
                               "llama.attention.scale", "llama.rope.scale_linear",
                               "llama.rope.scaling.factor", "llama.rope.scaling.attn_factor"}) {
    if (const Value* value = metadata.find(key);
        value && !(value->is_number() && value->as_number() == 1))
      refuse(key);
  }
  if (const std::string type = metadata.text("llama.rope.scaling.type", "none"); type != "none")
    fail(ErrorCode::BadInput,
         "{}: RoPE type \"{}\" is not supported; supported: none, and llama3 by rope_freqs.weight",
         metadata.place("llama.rope.scaling.type"), escaped(type));
}

LlamaSizes read_sizes(const GgufFile& file, const JsonFields& metadata) {
  LlamaSizes sizes;
  sizes.C = metadata.required_integer("llama.embedding_length", 1, kMaxSize);
  sizes.F = metadata.required_integer("llama.feed_forward_length", 1, kMaxSize);
  sizes.L = metadata.required_integer("llama.block_count", 1, kMaxBlocks);
  sizes.H = metadata.required_integer("llama.attention.head_count", 1, kMaxSize);
  sizes.Hkv = metadata.integer("llama.attention.head_count_kv", sizes.H, 1, kMaxSize);
  sizes.max_positions = metadata.required_integer("llama.context_length", 1, kMaxSize);
  sizes.D = metadata.integer("llama.attention.key_length", sizes.C / sizes.H, 1, kMaxSize);
  for (std::string_view key : {"llama.attention.value_length", "llama.rope.dimension_count"})
    if (metadata.integer(key, sizes.D, 1, kMaxSize) != sizes.D)
      fail(ErrorCode::BadInput, "{}: only the head size {} is supported", metadata.place(key),
           sizes.D);

  const GgufTensor* embedding = file.find("token_embd.weight");
  if (!embedding)
    fail(ErrorCode::BadInput, "{}: no tensor token_embd.weight", file.path().string());
  sizes.V = embedding->shape[0];
  if (metadata.integer("llama.vocab_size", sizes.V, 1, kMaxSize) != sizes.V)
    fail(ErrorCode::BadInput, "{}: the embedding has {} rows", metadata.place("llama.vocab_size"),
         sizes.V);
  return sizes;
}

// The float type of the matrices; block types have no such type and are read as F32.
DType stored_dtype(const GgufFile& file) {
  bool f16 = false, bf16 = false;
  for (const GgufTensor& tensor : file.tensors()) {
    if (tensor.type.values > 1) return DType::F32;
    f16 |= tensor.type.name == "F16";
    bf16 |= tensor.type.name == "BF16";
  }
  return bf16 ? DType::BF16 : f16 ? DType::F16 : DType::F32;
}

std::string_view torch_name(DType dtype) {
  return dtype == DType::BF16 ? "bfloat16" : dtype == DType::F16 ? "float16" : "float32";
}

// config.json has eos_token_id; generation_config.json also the other ids that end a turn.
void set_token_ids(const JsonFields& metadata, int64_t V, Value& config, Value& generation) {
  const auto id = [&](std::string_view key) -> Value {
    return metadata.find(key) ? Value(metadata.required_integer(key, 0, V - 1)) : Value();
  };
  Value::Array stops;
  for (std::string_view key : {"eos_token_id", "eot_token_id", "eom_token_id"}) {
    const Value stop = id(fmt::format("tokenizer.ggml.{}", key));
    if (!stop.is_null() && std::find(stops.begin(), stops.end(), stop) == stops.end())
      stops.push_back(stop);
  }
  for (Value* out : {&config, &generation}) {
    out->set("bos_token_id", id("tokenizer.ggml.bos_token_id"));
    out->set("eos_token_id", id("tokenizer.ggml.eos_token_id"));
    out->set("pad_token_id", id("tokenizer.ggml.padding_token_id"));
  }
  if (!stops.empty())
    generation.set("eos_token_id", stops.size() == 1 ? stops.front() : Value(stops));
}

Value config_json(const GgufFile& file, const JsonFields& metadata, const LlamaSizes& sizes,
                  DType dtype) {
  Value config = Value::Object{
      {"architectures", Value::Array{"LlamaForCausalLM"}},
      {"model_type", "llama"},
      {"hidden_size", sizes.C},
      {"intermediate_size", sizes.F},
      {"num_hidden_layers", sizes.L},
      {"num_attention_heads", sizes.H},
      {"num_key_value_heads", sizes.Hkv},
      {"head_dim", sizes.D},
      {"vocab_size", sizes.V},
      {"max_position_embeddings", sizes.max_positions},
      {"hidden_act", "silu"},
      {"rms_norm_eps", metadata.required_number("llama.attention.layer_norm_rms_epsilon", 0, 1)},
      {"attention_bias", file.find("blk.0.attn_q.bias") != nullptr},
      {"mlp_bias", file.find("blk.0.ffn_gate.bias") != nullptr},
      {"tie_word_embeddings", file.find("output.weight") == nullptr},
  };
  const double theta = metadata.number("llama.rope.freq_base", 10000, 1e-6, 1e15);
  config.set("rope_theta", theta);
  if (const GgufTensor* factors = file.find(kRopeFactors)) {
    std::vector<float> values(static_cast<size_t>(sizes.D / 2));
    if (factors->shape != Shape{sizes.D / 2})
      fail(ErrorCode::BadInput, "{} is {}, expected [{}]", file.place(*factors),
           factors->shape.str(), sizes.D / 2);
    file.read(*factors, 0, std::ssize(values), values.data());
    if (auto scaling = llama3_scaling(values, theta, sizes.max_positions, file.place(*factors)))
      config.set("rope_scaling", std::move(*scaling));
  }
  config.set("torch_dtype", torch_name(dtype));
  return config;
}

// The rows of q and k, weight or bias, are interleaved by head.
int64_t interleaved_heads(std::string_view gguf_name, const LlamaSizes& sizes) {
  return gguf_name.starts_with("attn_q.")   ? sizes.H
         : gguf_name.starts_with("attn_k.") ? sizes.Hkv
                                            : 0;
}

class TensorMapper {
 public:
  TensorMapper(const GgufFile& file, const LlamaSizes& sizes) : file_(file), sizes_(sizes) {}

  std::vector<GgufTensorMap> map() {
    for (const TensorName& name : kModelNames)
      add(std::string(name.gguf), std::string(name.hugging_face), 0);
    for (int64_t block = 0; block < sizes_.L; ++block)
      for (const TensorName& name : kBlockNames)
        add(fmt::format("blk.{}.{}", block, name.gguf),
            fmt::format("model.layers.{}.{}", block, name.hugging_face),
            interleaved_heads(name.gguf, sizes_));
    for (const GgufTensor& tensor : file_.tensors())
      if (tensor.name != kRopeFactors && !used_.contains(tensor.name))
        fail(ErrorCode::BadInput, "{} belongs to no part of a llama model of {} blocks",
             file_.place(tensor), sizes_.L);
    return std::move(tensors_);
  }

 private:
  // Absent tensors are the layout's to miss: it knows which are optional.
  void add(const std::string& gguf_name, std::string name, int64_t heads) {
    const GgufTensor* source = file_.find(gguf_name);
    if (!source) return;
    const std::string place = file_.place(*source);
    if (!can_dequantise(source->type))
      fail(ErrorCode::BadInput, "{} is {}; supported: {}", place, source->type.name,
           dequantisable_types());
    if (source->shape.rank() > 2 || (source->shape.rank() == 1 && source->type.values > 1))
      fail(ErrorCode::BadInput, "{} is {} {}, expected a matrix or a vector of floats", place,
           source->type.name, source->shape.str());
    if (heads > 0 && (sizes_.D % 2 != 0 || source->shape[0] != heads * sizes_.D))
      fail(ErrorCode::BadInput, "{} has {} rows, expected {} heads of {}, an even number", place,
           source->shape[0], heads, sizes_.D);
    used_.insert(gguf_name);
    tensors_.push_back({std::move(name), source->shape, source, heads});
  }

  const GgufFile& file_;
  const LlamaSizes& sizes_;
  std::vector<GgufTensorMap> tensors_;
  std::unordered_set<std::string> used_;
};

}  // namespace

GgufModel import_gguf(const GgufFile& file) {
  const JsonFields metadata(file.metadata(), file.path().string());
  const std::string architecture = metadata.text("general.architecture", "");
  if (architecture != "llama")
    fail(ErrorCode::BadInput, "{}: \"{}\" is not supported; supported: llama",
         metadata.place("general.architecture"), escaped(architecture));
  const LlamaSizes sizes = read_sizes(file, metadata);
  refuse_extensions(metadata, sizes);

  GgufModel model;
  model.tensors = TensorMapper(file, sizes).map();
  model.dtype = stored_dtype(file);
  model.config_json = config_json(file, metadata, sizes, model.dtype);
  model.generation_config = Value(Value::Object{});
  set_token_ids(metadata, sizes.V, model.config_json, model.generation_config);
  GgufTokenizer tokenizer = rebuild_tokenizer(file, sizes.max_positions);
  const auto token_count = std::ssize(metadata.required("tokenizer.ggml.tokens").as_array());
  if (token_count > sizes.V)
    fail(ErrorCode::BadInput, "{}: {} tokens, the embedding has {} rows",
         metadata.place("tokenizer.ggml.tokens"), token_count, sizes.V);
  model.tokenizer_json = std::move(tokenizer.tokenizer_json);
  model.tokenizer_config = std::move(tokenizer.tokenizer_config);
  model.chat_template = metadata.text("tokenizer.chat_template", "");
  return model;
}

void read_tensor_rows(const GgufFile& file, const GgufTensorMap& tensor, int64_t row_begin,
                      int64_t row_end, float* out) {
  const int64_t rows = tensor.shape[0];
  const int64_t row = tensor.shape.elements() / rows;
  check(row_begin >= 0 && row_begin <= row_end && row_end <= rows, "{}: rows {} to {}", tensor.name,
        row_begin, row_end);
  if (tensor.interleaved_heads == 0) {
    file.read(*tensor.source, row_begin * row, (row_end - row_begin) * row, out);
    return;
  }
  // Row 2j + half of a head in the file is row half * D/2 + j in Hugging Face's order.
  const int64_t D = rows / tensor.interleaved_heads;
  std::vector<float> head(static_cast<size_t>(D * row));
  int64_t loaded = -1;
  for (int64_t i = row_begin; i < row_end; ++i, out += row) {
    if (i / D != loaded) {
      loaded = i / D;
      file.read(*tensor.source, loaded * D * row, D * row, head.data());
    }
    const int64_t p = i % D, half = p / (D / 2), j = p % (D / 2);
    std::memcpy(out, head.data() + (2 * j + half) * row, static_cast<size_t>(row) * sizeof(float));
  }
}

}  // namespace lema
