// Rotary position embedding, arXiv:2104.09864 eq. 13 with the pairs (i, i + P/2) of the Llama
// layout, on any number type; x (N, heads * D). The transpose of a rotation is the rotation back,
// so `sign` -1 is also the backward pass.
#pragma once

#include <cstddef>
#include <vector>

namespace lema::ref {

template <typename T>
std::vector<T> rope(const std::vector<T>& x, const std::vector<double>& positions,
                    const std::vector<double>& table, size_t P, size_t D, double sign) {
  const size_t cols = x.size() / positions.size();
  std::vector<T> y = x;
  for (size_t n = 0; n < positions.size(); ++n)
    for (size_t head = n * cols; head < (n + 1) * cols; head += D)
      for (size_t i = 0; i < P / 2; ++i) {
        const double* angles = table.data() + static_cast<size_t>(positions[n]) * P;
        const double cosine = angles[i], sine = sign * angles[P / 2 + i];
        y[head + i] = x[head + i] * cosine - x[head + P / 2 + i] * sine;
        y[head + P / 2 + i] = x[head + i] * sine + x[head + P / 2 + i] * cosine;
      }
  return y;
}

}  // namespace lema::ref
