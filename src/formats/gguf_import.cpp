// The pieces put together: config, tensors under their Hugging Face names, token ids, tokenizer;
// and the rows of a tensor in Hugging Face's order.
#include "formats/gguf_import.h"

#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "formats/gguf_config.h"
#include "formats/json_fields.h"

namespace lema {
namespace {

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

// Templates beside the default one: tokenizer.chat_template.NAME. They become files of that name.
std::vector<std::pair<std::string, std::string>> named_templates(const Value& metadata,
                                                                 const JsonFields& fields) {
  constexpr std::string_view prefix = "tokenizer.chat_template.";
  constexpr std::string_view allowed =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
  std::vector<std::pair<std::string, std::string>> found;
  for (const auto& [key, value] : metadata.as_object()) {
    if (!key.starts_with(prefix)) continue;
    const std::string name = key.substr(prefix.size());
    if (name.empty() || name.size() > 64 || name.find_first_not_of(allowed) != std::string::npos)
      fail(ErrorCode::BadInput, "{}: \"{}\" is no name for a template", fields.source(),
           escaped(name));
    found.emplace_back(name, fields.text(key, ""));
  }
  return found;
}

class TensorMapper {
 public:
  TensorMapper(const GgufFile& file, const GgufArchitecture& architecture, const GgufSizes& sizes)
      : file_(file), architecture_(architecture), sizes_(sizes) {}

  std::vector<GgufTensorMap> map() {
    for (const GgufTensorName& name : architecture_.model_tensors)
      add(std::string(name.gguf), std::string(name.hugging_face), 0, false);
    for (int64_t block = 0; block < sizes_.L; ++block)
      for (const GgufTensorName& name : architecture_.block_tensors)
        add(fmt::format("blk.{}.{}", block, name.gguf),
            fmt::format("{}{}.{}", architecture_.block_prefix, block, name.hugging_face),
            interleaved_heads(name.gguf), architecture_.transposed_blocks);
    for (const GgufTensor& tensor : file_.tensors())
      if (!used_.contains(tensor.name) &&
          !(architecture_.model_type != "gpt2" && is_config_tensor(tensor.name)))
        fail(ErrorCode::BadInput, "{} belongs to no part of a {} model of {} blocks",
             file_.place(tensor), architecture_.name, sizes_.L);
    return std::move(tensors_);
  }

 private:
  // The rows of q and k, weight or bias, are interleaved by head.
  int64_t interleaved_heads(std::string_view gguf_name) const {
    if (!architecture_.interleaved_qk) return 0;
    return gguf_name.starts_with("attn_q.")   ? sizes_.H
           : gguf_name.starts_with("attn_k.") ? sizes_.Hkv
                                              : 0;
  }

  // Absent tensors are the layout's to miss: it knows which are optional.
  void add(const std::string& gguf_name, std::string name, int64_t heads, bool transposed) {
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
    transposed = transposed && source->shape.rank() == 2;
    const Shape shape = transposed ? Shape{source->shape[1], source->shape[0]} : source->shape;
    tensors_.push_back({std::move(name), shape, source, heads, transposed});
  }

  const GgufFile& file_;
  const GgufArchitecture& architecture_;
  const GgufSizes& sizes_;
  std::vector<GgufTensorMap> tensors_;
  std::unordered_set<std::string> used_;
};

// Rows of the transposed matrix are columns of the file's, read in whole blocks.
void read_columns(const GgufFile& file, const GgufTensor& source, int64_t begin, int64_t end,
                  float* out) {
  const int64_t rows = source.shape[0], columns = source.shape[1], block = source.type.values;
  const int64_t first = begin / block * block;
  const int64_t count = std::min((end + block - 1) / block * block, columns) - first;
  std::vector<float> part(static_cast<size_t>(count));
  for (int64_t row = 0; row < rows; ++row) {
    file.read(source, row * columns + first, count, part.data());
    for (int64_t i = begin; i < end; ++i)
      out[(i - begin) * rows + row] = part[static_cast<size_t>(i - first)];
  }
}

}  // namespace

GgufModel import_gguf(const GgufFile& file) {
  const JsonFields metadata(file.metadata(), file.path().string());
  const GgufArchitecture& architecture = gguf_architecture(metadata);
  const GgufSizes sizes = read_gguf_sizes(file, architecture, metadata);

  GgufModel model;
  model.dtype = stored_dtype(file);
  model.config_json = gguf_config_json(file, architecture, metadata, sizes, model.dtype);
  model.tensors = TensorMapper(file, architecture, sizes).map();
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
  model.named_templates = named_templates(file.metadata(), metadata);
  return model;
}

void read_tensor_rows(const GgufFile& file, const GgufTensorMap& tensor, int64_t row_begin,
                      int64_t row_end, float* out) {
  const int64_t rows = tensor.shape[0];
  const int64_t row = tensor.shape.elements() / rows;
  check(row_begin >= 0 && row_begin <= row_end && row_end <= rows, "{}: rows {} to {}", tensor.name,
        row_begin, row_end);
  if (tensor.is_transposed) return read_columns(file, *tensor.source, row_begin, row_end, out);
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
