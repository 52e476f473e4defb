// GELU in the tanh form of arXiv:1606.08415 section 2, on any number type.
#pragma once

#include <cmath>
#include <complex>
#include <vector>

namespace lema::ref {

inline const double kGeluSlope = std::sqrt(2 / 3.14159265358979323846);

template <typename T>
std::vector<T> gelu(const std::vector<T>& x) {
  std::vector<T> y;
  for (const T& v : x)
    y.push_back(0.5 * v * (1.0 + std::tanh(kGeluSlope * (v + 0.044715 * v * v * v))));
  return y;
}

inline std::vector<double> gelu_backward(const std::vector<double>& dy,
                                         const std::vector<double>& x) {
  std::vector<double> dx;
  for (size_t i = 0; i < x.size(); ++i) {
    const double v = x[i], t = std::tanh(kGeluSlope * (v + 0.044715 * v * v * v));
    const double inner = kGeluSlope * (1 + 3 * 0.044715 * v * v);
    dx.push_back(dy[i] * (0.5 * (1 + t) + 0.5 * v * (1 - t * t) * inner));
  }
  return dx;
}

}  // namespace lema::ref
