// What the architectures of GGUF are called in Hugging Face's folders: class, tensor names, and the
// rows that lie in another order. Called by gguf_import.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "formats/json_fields.h"

namespace lema {

struct GgufTensorName {
  std::string_view gguf, hugging_face;
};

struct GgufArchitecture {
  std::string_view name;  // general.architecture, the prefix of its keys
  std::string_view model_type, model_class;
  std::span<const GgufTensorName> model_tensors;
  std::string_view block_prefix;                  // "model.layers.": a block's tensors are
  std::span<const GgufTensorName> block_tensors;  // blk.N.GGUF and block_prefix N.HUGGING_FACE
  bool interleaved_qk = false;     // rows of q and k are pairs (i, i+1) of llama.cpp's RoPE
  bool transposed_blocks = false;  // Hugging Face stores the matrices of blocks (in, out)

  std::string key(std::string_view member) const { return fmt::format("{}.{}", name, member); }
};

// The one that the metadata names. BadInput, listing the supported ones, for any other.
const GgufArchitecture& gguf_architecture(const JsonFields& metadata);

}  // namespace lema
