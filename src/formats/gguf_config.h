// config.json out of a GGUF file's metadata. Called by gguf_import.
#pragma once

#include <string>

#include "core/dtype.h"
#include "formats/gguf.h"
#include "formats/gguf_architectures.h"

namespace lema {

struct GgufSizes {
  int64_t C = 0, F = 0, L = 0, H = 0, Hkv = 0, D = 0, V = 0, max_positions = 0;
  int64_t rope_dim = 0;  // rotated columns of a head
};

// BadInput, naming the key, for sizes that are missing, impossible or unlike the embedding's.
GgufSizes read_gguf_sizes(const GgufFile& file, const GgufArchitecture& architecture,
                          const JsonFields& metadata);

// config.json but for token ids. BadInput for every key that would change the arithmetic and that
// the family's config class cannot express, and for RoPE factors that fit no scaling.
Value gguf_config_json(const GgufFile& file, const GgufArchitecture& architecture,
                       const JsonFields& metadata, const GgufSizes& sizes, DType dtype);

// Tensors that are part of the config: RoPE factors.
bool is_config_tensor(std::string_view tensor);

std::string_view torch_dtype_name(DType dtype);

}  // namespace lema
