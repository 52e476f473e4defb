// Llama-3 RoPE scaling out of the factors a GGUF file stores instead of its settings, and the
// names of the tensors with RoPE factors. Called by gguf_config.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/value.h"

namespace lema {

inline constexpr const char* kRopeFactors = "rope_freqs.weight";
inline constexpr const char* kLongFactors = "rope_factors_long.weight";
inline constexpr const char* kShortFactors = "rope_factors_short.weight";

// The rope_scaling object (rope_type llama3) that gives these divisors of the inverse frequencies
// theta^(-2i/dim); nullopt when every divisor is 1. factors (dim/2). The divisors fix factor,
// original/low and original/high only, so low_freq_factor is 1 wherever it is free. BadInput,
// starting with `place`, when no such settings give the divisors.
std::optional<Value> llama3_scaling(const std::vector<float>& factors, double theta,
                                    int64_t max_positions, const std::string& place);

}  // namespace lema
