// The proof of a merge: logits of base and adapter beside those of the merged folder, on one fixed
// token sequence. Called by merge before the folder gets its name.
#pragma once

#include "convert/progress.h"
#include "core/dtype.h"
#include "formats/hf_model.h"
#include "formats/peft_adapter.h"

namespace lema {

struct VerifyResult {
  int64_t tokens = 0;
  double max_abs = 0;       // largest |difference| of a logit
  double relative_rms = 0;  // RMS of the differences over RMS of the base and adapter's logits
  // The same for the base alone in place of the merged model: what the adapter does.
  double adapter_rms = 0;
  // For relative_rms: what rounding explains, but no more than half of adapter_rms.
  double tolerance = 0;
};

// Runs both on the CPU in f32, so that only the rounding of the merged weights lies between them.
// `coarsest` is the shortest type among the merged tensors and bounds the tolerance. The models
// pass through two buffers of a block each. `report` is called with stage "comparing", in blocks.
VerifyResult compare_logits(const ModelFolder& base, const Adapter& adapter,
                            const ModelFolder& merged, DType coarsest,
                            const ReportProgress& report);

}  // namespace lema
