// A GGUF file as a Hugging Face model: config, tokenizer, template, and the tensors under their
// Hugging Face names and in their row order. `lema convert` writes a folder from this.
#pragma once

#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/value.h"
#include "formats/gguf.h"

namespace lema {

// One tensor of the model and where it comes from.
struct GgufTensorMap {
  std::string name;  // Hugging Face, e.g. "model.layers.0.self_attn.q_proj.weight"
  Shape shape;       // Hugging Face's; source->shape, or that transposed
  const GgufTensor* source = nullptr;  // lives as long as the GgufFile
  // Heads whose rows lie interleaved in the file (pairs i, i+1 of llama.cpp's RoPE) and are read in
  // rotate-half order; 0: rows as they lie.
  int64_t interleaved_heads = 0;
  bool is_transposed = false;  // the file holds (out, in) where Hugging Face holds (in, out)
};

struct GgufModel {
  Value config_json, generation_config, tokenizer_json, tokenizer_config;
  std::string chat_template;  // "" when the file has none
  std::vector<std::pair<std::string, std::string>> named_templates;  // name, template
  // What config.json's torch_dtype says: BF16 or F16 when the file's matrices are that, else F32.
  DType dtype = DType::F32;
  std::vector<GgufTensorMap> tensors;
};

// BadInput, naming file and key or tensor, for another architecture than llama, qwen2, qwen3, phi3
// and gpt2, for metadata that its config class cannot express, for a tokenizer that cannot be
// rebuilt, for tensors left over and for types that cannot be dequantised. Shapes against the
// config are the layout's to check, but for the q and k rows that the order here depends on.
GgufModel import_gguf(const GgufFile& file);

// Rows [row_begin, row_end) of the first dimension in Hugging Face's order, dequantised to f32; a
// vector's rows are its elements. out (row_end - row_begin, elements of a row). Holds one head's
// rows, or a part of one row, at most. Threads: concurrent.
void read_tensor_rows(const GgufFile& file, const GgufTensorMap& tensor, int64_t row_begin,
                      int64_t row_end, float* out);

// tokenizer.json and tokenizer_config.json from the tokenizer.ggml.* keys; called by import_gguf.
// `max_positions` becomes model_max_length.
struct GgufTokenizer {
  Value tokenizer_json, tokenizer_config;
};
GgufTokenizer rebuild_tokenizer(const GgufFile& file, int64_t max_positions);

}  // namespace lema
