// Reference of the lengths of an adapted weight's rows. Ref: arXiv:2402.09353, section 4.1.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

namespace lema::ref {

// norm[o] = sqrt(sum over i of (w[o, i] + scale * sum over r of b[o, r] a[r, i])^2). w (O, I),
// a (R, I), b (O, R).
inline std::vector<double> lora_norm(const std::vector<double>& w, const std::vector<double>& a,
                                     const std::vector<double>& b, double scale, size_t O,
                                     size_t I) {
  const size_t R = a.size() / I;
  std::vector<double> norm(O, 0);
  for (size_t o = 0; o < O; ++o) {
    for (size_t i = 0; i < I; ++i) {
      double x = w[o * I + i];
      for (size_t r = 0; r < R; ++r) x += scale * b[o * R + r] * a[r * I + i];
      norm[o] += x * x;
    }
    norm[o] = std::sqrt(norm[o]);
  }
  return norm;
}

}  // namespace lema::ref
