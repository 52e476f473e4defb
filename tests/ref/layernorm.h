// LayerNorm as arXiv:1607.06450 section 3 has it (biased variance), on any number type; x (N, C),
// weight, bias (C).
#pragma once

#include <cmath>
#include <complex>
#include <vector>

namespace lema::ref {

template <typename T>
std::vector<T> layernorm(const std::vector<T>& x, const std::vector<double>& weight,
                         const std::vector<double>& bias, double eps) {
  const size_t C = weight.size();
  const auto count = static_cast<double>(C);
  std::vector<T> y(x.size());
  for (size_t n = 0; n < x.size(); n += C) {
    T mean = 0, variance = 0;
    for (size_t c = 0; c < C; ++c) mean += x[n + c] / count;
    for (size_t c = 0; c < C; ++c) variance += (x[n + c] - mean) * (x[n + c] - mean) / count;
    for (size_t c = 0; c < C; ++c)
      y[n + c] = (x[n + c] - mean) / std::sqrt(variance + eps) * weight[c] + bias[c];
  }
  return y;
}

// Through y = (x - mean) / sigma * weight: the mean and sigma each take their share of g = dy *
// weight back.
inline std::vector<double> layernorm_backward(const std::vector<double>& dy,
                                              const std::vector<double>& x,
                                              const std::vector<double>& weight, double eps) {
  const size_t C = weight.size();
  const auto count = static_cast<double>(C);
  std::vector<double> dx(x.size());
  for (size_t n = 0; n < x.size(); n += C) {
    double mean = 0, variance = 0, d_mean = 0, d_sigma = 0;
    for (size_t c = 0; c < C; ++c) mean += x[n + c] / count;
    for (size_t c = 0; c < C; ++c) variance += (x[n + c] - mean) * (x[n + c] - mean) / count;
    const double sigma = std::sqrt(variance + eps);
    for (size_t c = 0; c < C; ++c) {
      d_mean -= dy[n + c] * weight[c] / sigma;
      d_sigma -= dy[n + c] * weight[c] * (x[n + c] - mean) / (sigma * sigma);
    }
    for (size_t c = 0; c < C; ++c)
      dx[n + c] = dy[n + c] * weight[c] / sigma + d_mean / count +
                  d_sigma * (x[n + c] - mean) / (sigma * count);
  }
  return dx;
}

}  // namespace lema::ref
