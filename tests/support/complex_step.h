// The derivative of a reference forward without subtraction error: f(x + ih) / ih in
// complex<double>, h far below the roundoff, is exact to double precision. Rung one of the gradient
// checks (Squire and Trapp, 1998).
#pragma once

#include <complex>
#include <vector>

#include "support/expect_close.h"

namespace lema::test {

using Complex = std::complex<double>;
using Complexes = std::vector<Complex>;

inline Complexes complexes(const Values& x) { return Complexes(x.begin(), x.end()); }

// d/dx of sum_j upstream_j f(x)_j; f maps Complexes to Complexes.
template <typename F>
Values complex_step_gradient(const F& f, const Values& x, const Values& upstream) {
  constexpr double h = 1e-30;
  Values gradient;
  Complexes point = complexes(x);
  for (size_t i = 0; i < x.size(); ++i) {
    point[i] = {x[i], h};
    const Complexes y = f(point);
    double change = 0;
    for (size_t j = 0; j < y.size(); ++j) change += upstream[j] * y[j].imag();
    gradient.push_back(change / h);
    point[i] = x[i];
  }
  return gradient;
}

// Equal to 1e-12 of the largest element.
inline void expect_same_gradient(const std::string& what, const Values& found,
                                 const Values& expected) {
  double largest = 0;
  for (const double x : expected) largest = std::max(largest, std::abs(x));
  expect_close(what, found, expected, 1e-12 * largest);
}

}  // namespace lema::test
