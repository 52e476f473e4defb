// lema merge: a base model and a LoRA adapter become one Hugging Face folder, W' = W + scale * B A,
// tensor by tensor in memory of the adapter and a few chunks; the folder appears whole or not at
// all.
//
// Products and sums are f32; a number is rounded once, to the output's type. The files are those of
// convert.h, or shards; __metadata__ holds format, lema_format, lema_base (name of the base folder)
// and lema_adapter_sha256.
// Ref: arXiv:2106.09685 section 4.1; PEFT's merge_and_unload.
#pragma once

#include <optional>
#include <string>

#include "convert/verify.h"
#include "core/dtype.h"
#include "core/file.h"

namespace lema {

struct MergeOptions {
  fs::path model, adapter, output;
  std::optional<DType> dtype;  // of every tensor; absent: each tensor keeps its own
  int64_t shard_bytes = 0;     // largest shard; 0: one file
  bool verify = false;         // compare logits before the folder gets its name
};

struct MergeResult {
  int64_t tensors = 0, adapted = 0;
  int64_t bytes = 0;  // of tensors
  int64_t shards = 1;
  // max |dW| / max |W| of the adapted matrix where that is largest, and that matrix.
  double largest_change = 0;
  std::string most_changed;
  // Root mean square over all adapted matrices of what rounding W + dW to the output's type moved,
  // and of dW.
  double rounding_rms = 0, change_rms = 0;
  std::optional<VerifyResult> verified;
};

// Errors: Usage as convert(); BadInput when the adapter names a module that the model has not, has
// another shape, or adapts a head that is the embedding; Numeric when verification finds the logits
// further apart than its tolerance; else as convert().
MergeResult merge(const MergeOptions& options, const ReportProgress& report);

}  // namespace lema
