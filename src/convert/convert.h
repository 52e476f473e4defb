// lema convert: a Hugging Face folder or a GGUF file becomes a folder in the order that lema
// streams, and that is still an ordinary Hugging Face folder. Tensor by tensor, in memory of a few
// chunks; the folder appears whole or not at all.
//
//   OUTPUT/model.safetensors   one file in model_file_order(), its data from a multiple of 4096
//     __metadata__  format              "pt"
//                   lema_format         "1"
//                   lema_source         name of the source, without its path
//                   lema_source_sha256  JSON object {weight file of the source: SHA-256}
//     A file of ours whose numbers are taken over as they are keeps its entries.
//   OUTPUT/config.json ...     as copy_side_files(); of a GGUF file as import_gguf() rebuilds them
#pragma once

#include <optional>

#include "convert/progress.h"
#include "core/dtype.h"
#include "core/file.h"

namespace lema {

inline constexpr const char* kModelFileVersion = "1";

struct ConvertOptions {
  fs::path source, output;
  // F32, BF16 or F16 for every tensor. Absent: no number changes; block types of GGUF become F32.
  std::optional<DType> dtype;
};

struct ConvertResult {
  int64_t tensors = 0;
  int64_t bytes = 0;  // of tensors
};

// Errors: Usage when the output exists or lies inside the source; BadInput for everything that
// make_piece_table or import_gguf refuses and for numbers that are not finite or too large for
// `dtype`; Io for a full disk.
ConvertResult convert(const ConvertOptions& options, const ReportProgress& report);

}  // namespace lema
