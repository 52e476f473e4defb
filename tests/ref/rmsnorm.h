// RMSNorm as arXiv:1910.07467 eq. 4 has it, on any number type; x (N, C), weight (C).
#pragma once

#include <cmath>
#include <complex>
#include <vector>

namespace lema::ref {

template <typename T>
std::vector<T> rmsnorm(const std::vector<T>& x, const std::vector<double>& weight, double eps) {
  const size_t C = weight.size();
  std::vector<T> y(x.size());
  for (size_t n = 0; n < x.size(); n += C) {
    T square = 0;
    for (size_t c = 0; c < C; ++c) square += x[n + c] * x[n + c];
    const T rms = std::sqrt(square / static_cast<double>(C) + eps);
    for (size_t c = 0; c < C; ++c) y[n + c] = x[n + c] / rms * weight[c];
  }
  return y;
}

// Quotient rule on x_c / rms: dx_c = (g_c - x_c / rms^2 * mean(g x)) / rms, g = dy * weight.
inline std::vector<double> rmsnorm_backward(const std::vector<double>& dy,
                                            const std::vector<double>& x,
                                            const std::vector<double>& weight, double eps) {
  const size_t C = weight.size();
  std::vector<double> dx(x.size());
  for (size_t n = 0; n < x.size(); n += C) {
    double square = 0, along = 0;
    for (size_t c = 0; c < C; ++c) {
      square += x[n + c] * x[n + c] / static_cast<double>(C);
      along += dy[n + c] * weight[c] * x[n + c] / static_cast<double>(C);
    }
    const double rms = std::sqrt(square + eps);
    for (size_t c = 0; c < C; ++c)
      dx[n + c] = (dy[n + c] * weight[c] - x[n + c] * along / (rms * rms)) / rms;
  }
  return dx;
}

}  // namespace lema::ref
