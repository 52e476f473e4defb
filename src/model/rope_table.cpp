// Frequencies by RopeConfig::Kind. Called once, when a Transformer is built.
#include "model/rope_table.h"

#include <cmath>
#include <numbers>

namespace lema {

std::vector<float> rope_inverse_frequencies(const RopeConfig& rope, int64_t D) {
  std::vector<float> frequencies;
  for (int64_t i = 0; i < D / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(D);
    float f = 1.0f / std::pow(static_cast<float>(rope.theta), exponent);
    if (rope.kind == RopeConfig::Kind::Llama3) {
      const auto factor = static_cast<float>(rope.factor);
      const auto low = static_cast<float>(rope.low_freq_factor),
                 high = static_cast<float>(rope.high_freq_factor);
      const auto original = static_cast<float>(rope.original_max_positions);
      const float wavelength = 2.0f * std::numbers::pi_v<float> / f;
      if (wavelength > original / low) {
        f /= factor;
      } else if (wavelength >= original / high) {
        const float smooth = (original / wavelength - low) / (high - low);
        f = (1 - smooth) * f / factor + smooth * f;
      }
    }
    frequencies.push_back(f);
  }
  return frequencies;
}

std::vector<float> rope_table(const RopeConfig& rope, int64_t D, int64_t positions) {
  const std::vector<float> frequencies = rope_inverse_frequencies(rope, D);
  std::vector<float> table(static_cast<size_t>(positions * D));
  for (int64_t p = 0; p < positions; ++p) {
    float* row = table.data() + p * D;
    for (int64_t i = 0; i < D / 2; ++i) {
      const float angle = static_cast<float>(p) * frequencies[static_cast<size_t>(i)];
      row[i] = std::cos(angle);
      row[D / 2 + i] = std::sin(angle);
    }
  }
  return table;
}

}  // namespace lema
