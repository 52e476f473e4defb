// A small model folder whose tensors lie in no useful order, over one file or several, with values
// that tell every element of every tensor apart: what convert and merge have to put in order.
#pragma once

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "formats/json.h"
#include "formats/safetensors.h"
#include "layout/fields.h"

namespace lema::test {

struct ScrambledModel {
  Value config;
  DType dtype = DType::F32;
  std::string prefix = "transformer.";  // GPT-2: of the tensors' names
  int shards = 1;
  std::vector<TensorSpec> extra = {};  // further tensors
  Metadata metadata = {{"format", "pt"}};
  // Changes the f32 values of a tensor before they are rounded.
  std::function<void(const std::string& tensor, std::vector<float>&)> edit = {};
};

inline Value small_llama(bool tied, bool biases = false) {
  return Value::Object{{"architectures", Value::Array{"LlamaForCausalLM"}},
                       {"model_type", "llama"},
                       {"hidden_size", 8},
                       {"intermediate_size", 12},
                       {"num_hidden_layers", 2},
                       {"num_attention_heads", 4},
                       {"num_key_value_heads", 2},
                       {"max_position_embeddings", 16},
                       {"vocab_size", 11},
                       {"attention_bias", biases},
                       {"mlp_bias", biases},
                       {"tie_word_embeddings", tied},
                       {"torch_dtype", "float32"}};
}

// The same sizes in another family of Llama's design.
inline Value small_like(std::string_view model_type, std::string_view architecture) {
  Value config = small_llama(false);
  config.set("model_type", model_type);
  config.set("architectures", Value::Array{architecture});
  config.set("head_dim", 4);
  return config;
}

inline Value small_gpt2() {
  return Value::Object{{"architectures", Value::Array{"GPT2LMHeadModel"}},
                       {"model_type", "gpt2"},
                       {"n_embd", 8},
                       {"n_layer", 2},
                       {"n_head", 2},
                       {"n_positions", 16},
                       {"vocab_size", 11},
                       {"activation_function", "gelu_new"}};
}

// In model-file order, written down apart from convert's own list.
inline std::vector<FieldSpec> fields_of(const ModelSpec& spec) {
  std::vector<FieldSpec> fields = {spec.embed};
  fields.insert(fields.end(), spec.positions.begin(), spec.positions.end());
  for (const auto& block : spec.blocks)
    for (const PieceSpec& piece : block)
      fields.insert(fields.end(), piece.fields.begin(), piece.fields.end());
  fields.insert(fields.end(), spec.final_norm.begin(), spec.final_norm.end());
  if (spec.head.tensor != spec.embed.tensor) fields.push_back(spec.head);
  return fields;
}

inline ModelSpec spec_of(const ScrambledModel& model) {
  const ModelConfig config = parse_model_config(model.config, "config.json");
  return config.family == Family::Gpt2 ? gpt2_spec(config, model.prefix) : llama_spec(config);
}

// Element i of a tensor: a number of its name and i between -1 and 1.
inline std::vector<float> values_of(const ScrambledModel& model, const std::string& tensor,
                                    int64_t n) {
  std::vector<float> values(static_cast<size_t>(n));
  const size_t seed = std::hash<std::string>()(tensor) % 1000;
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>((seed * 31 + i * 7919) % 2003) / 1001.0f - 1.0f;
  if (model.edit) model.edit(tensor, values);
  return values;
}

inline std::string rounded_bytes(const std::vector<float>& values, DType dtype) {
  std::string bytes;
  for (const float x : values) {
    char raw[4];
    const bf16 b = to_bf16(x);
    const f16 h = to_f16(x);
    const void* from = dtype == DType::F32    ? static_cast<const void*>(&x)
                       : dtype == DType::BF16 ? static_cast<const void*>(&b)
                                              : static_cast<const void*>(&h);
    std::memcpy(raw, from, static_cast<size_t>(element_bytes(dtype)));
    bytes.append(raw, static_cast<size_t>(element_bytes(dtype)));
  }
  return bytes;
}

inline void write_scrambled(const fs::path& folder, const ScrambledModel& model) {
  fs::create_directories(folder);
  write_file(folder / "config.json", dump_json(model.config, 2) + "\n");
  std::vector<TensorSpec> tensors = model.extra;
  for (const FieldSpec& field : fields_of(spec_of(model)))
    tensors.push_back({field.tensor, model.dtype, field.shape});
  std::sort(tensors.begin(), tensors.end(),
            [](const TensorSpec& a, const TensorSpec& b) { return a.name > b.name; });
  Value::Object weight_map;
  for (int shard = 0; shard < model.shards; ++shard) {
    std::vector<TensorSpec> part;
    for (size_t i = static_cast<size_t>(shard); i < tensors.size();
         i += static_cast<size_t>(model.shards))
      part.push_back(tensors[i]);
    const std::string name = model.shards == 1 ? "model.safetensors"
                                               : fmt::format("model-{:05}-of-{:05}.safetensors",
                                                             shard + 1, model.shards);
    SafetensorsWriter writer(folder / name, part, model.metadata);
    for (const TensorSpec& tensor : part) {
      weight_map.emplace_back(tensor.name, name);
      const std::string bytes =
          rounded_bytes(values_of(model, tensor.name, tensor.shape.elements()), tensor.dtype);
      writer.write(bytes.data(), std::ssize(bytes));
    }
    writer.finish();
  }
  if (model.shards > 1)
    write_file(folder / "model.safetensors.index.json",
               dump_json(Value::Object{{"weight_map", std::move(weight_map)}}));
}

// The bytes of every tensor of a folder.
inline std::map<std::string, std::string> tensors_of(const ModelFolder& folder) {
  std::map<std::string, std::string> tensors;
  for (const SafetensorsFile& file : folder.files())
    for (const TensorEntry& entry : file.tensors()) {
      tensors[entry.name].resize(static_cast<size_t>(entry.bytes));
      file.read(entry, tensors[entry.name].data());
    }
  return tensors;
}

inline std::vector<float> floats_of(const std::string& bytes, DType dtype) {
  std::vector<float> values(bytes.size() / static_cast<size_t>(element_bytes(dtype)));
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::F32) std::memcpy(&values[i], bytes.data() + 4 * i, 4);
    uint16_t bits = 0;
    if (dtype != DType::F32) std::memcpy(&bits, bytes.data() + 2 * i, 2);
    if (dtype == DType::BF16) values[i] = to_f32(bf16{bits});
    if (dtype == DType::F16) values[i] = to_f32(f16{bits});
  }
  return values;
}

}  // namespace lema::test
