// SwiGLU without its projections, arXiv:2002.05202 eq. 5, on any number type; gate_up (N, 2F):
// gate, then up.
#pragma once

#include <cmath>
#include <complex>
#include <vector>

namespace lema::ref {

template <typename T>
std::vector<T> swiglu(const std::vector<T>& gate_up, size_t F) {
  std::vector<T> y;
  for (size_t n = 0; n < gate_up.size(); n += 2 * F)
    for (size_t c = n; c < n + F; ++c)
      y.push_back(gate_up[c] / (1.0 + std::exp(-gate_up[c])) * gate_up[c + F]);
  return y;
}

inline std::vector<double> swiglu_backward(const std::vector<double>& dy,
                                           const std::vector<double>& gate_up, size_t F) {
  std::vector<double> d_gate_up(gate_up.size());
  for (size_t n = 0; n < gate_up.size(); n += 2 * F)
    for (size_t c = n; c < n + F; ++c) {
      const double gate = gate_up[c], up = gate_up[c + F], upstream = dy[n / 2 + c - n];
      const double decay = std::exp(-gate), denominator = 1 + decay;
      d_gate_up[c] = upstream * up * (1 / denominator + gate * decay / (denominator * denominator));
      d_gate_up[c + F] = upstream * gate / denominator;
    }
  return d_gate_up;
}

}  // namespace lema::ref
