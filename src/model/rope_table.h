// Cosines and sines of rotary position embedding, as Ops::rope reads them.
#pragma once

#include <vector>

#include "formats/hf_model.h"

namespace lema {

// Inverse frequencies, D / 2 of them. Llama3 scaling keeps short wavelengths, divides long ones by
// `factor` and blends between. Ref: transformers modeling_rope_utils, _compute_llama3_parameters;
// computed in f32 as there.
std::vector<float> rope_inverse_frequencies(const RopeConfig& rope, int64_t D);

// (positions, D) f32: row p is cos(p f_0) .. cos(p f_{D/2-1}), then the sines.
std::vector<float> rope_table(const RopeConfig& rope, int64_t D, int64_t positions);

}  // namespace lema
