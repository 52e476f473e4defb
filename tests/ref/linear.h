// Reference of a linear with a low-rank adapter, in any number type. Ref: arXiv:2106.09685,
// section 4.1; with magnitudes arXiv:2402.09353, sections 4.2 and 4.3.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace lema::ref {

// y = x W^T + bias + scale (mask o x) A^T B^T. `mask` holds 0 or 1 / (1 - dropout) for each element
// of x. With a magnitude, g = magnitude / norm and z = (mask o x) (W + scale B A)^T:
// y = x W^T + bias + g o z - (mask o x) W^T. The norm is a constant of the backward pass.
template <typename T>
struct Linear {
  int64_t N = 0, I = 0, O = 0, R = 0;
  double scale = 1;
  std::vector<T> x, w, bias, a, b;  // (N, I), (O, I), (O), (R, I), (O, R)
  std::vector<double> mask;         // (N, I)
  std::vector<T> magnitude, norm;   // (O), or empty

  // h (N, R) = (mask o x) A^T.
  std::vector<T> down() const {
    std::vector<T> h(at(N * R), T(0));
    for (int64_t n = 0; n < N; ++n)
      for (int64_t r = 0; r < R; ++r)
        for (int64_t i = 0; i < I; ++i)
          h[at(n * R + r)] += x[at(n * I + i)] * mask[at(n * I + i)] * a[at(r * I + i)];
    return h;
  }
  T gain(int64_t o) const { return magnitude.empty() ? T(1) : magnitude[at(o)] / norm[at(o)]; }
  // (mask o x) W^T + scale (mask o x) A^T B^T.
  std::vector<T> adapted() const {
    const std::vector<T> h = down();
    std::vector<T> z(at(N * O), T(0));
    for (int64_t n = 0; n < N; ++n)
      for (int64_t o = 0; o < O; ++o) {
        T& sum = z[at(n * O + o)];
        for (int64_t i = 0; i < I; ++i)
          sum += mask[at(n * I + i)] * x[at(n * I + i)] * w[at(o * I + i)];
        for (int64_t r = 0; r < R; ++r) sum += scale * h[at(n * R + r)] * b[at(o * R + r)];
      }
    return z;
  }
  std::vector<T> forward() const {
    std::vector<T> y = adapted();
    for (int64_t n = 0; n < N; ++n)
      for (int64_t o = 0; o < O; ++o) {
        T& sum = y[at(n * O + o)];
        sum = gain(o) * sum + (bias.empty() ? T(0) : bias[at(o)]);
        for (int64_t i = 0; i < I; ++i)
          sum += (1 - mask[at(n * I + i)]) * x[at(n * I + i)] * w[at(o * I + i)];
      }
    return y;
  }
  // u (N, R) = (g o dy) B.
  std::vector<T> up(const std::vector<T>& dy) const {
    std::vector<T> u(at(N * R), T(0));
    for (int64_t n = 0; n < N; ++n)
      for (int64_t r = 0; r < R; ++r)
        for (int64_t o = 0; o < O; ++o)
          u[at(n * R + r)] += gain(o) * dy[at(n * O + o)] * b[at(o * R + r)];
    return u;
  }
  std::vector<T> d_magnitude(const std::vector<T>& dy) const {
    const std::vector<T> z = adapted();
    std::vector<T> out(at(O), T(0));
    for (int64_t n = 0; n < N; ++n)
      for (int64_t o = 0; o < O; ++o)
        out[at(o)] += dy[at(n * O + o)] * z[at(n * O + o)] / norm[at(o)];
    return out;
  }
  std::vector<T> dx(const std::vector<T>& dy) const {
    const std::vector<T> u = up(dy);
    std::vector<T> out(at(N * I), T(0));
    for (int64_t n = 0; n < N; ++n)
      for (int64_t i = 0; i < I; ++i) {
        T& sum = out[at(n * I + i)];
        const double kept = mask[at(n * I + i)];
        for (int64_t o = 0; o < O; ++o)
          sum += (1 - kept + gain(o) * kept) * dy[at(n * O + o)] * w[at(o * I + i)];
        for (int64_t r = 0; r < R; ++r)
          sum += scale * mask[at(n * I + i)] * u[at(n * R + r)] * a[at(r * I + i)];
      }
    return out;
  }
  std::vector<T> da(const std::vector<T>& dy) const {
    const std::vector<T> u = up(dy);
    std::vector<T> out(at(R * I), T(0));
    for (int64_t r = 0; r < R; ++r)
      for (int64_t i = 0; i < I; ++i)
        for (int64_t n = 0; n < N; ++n)
          out[at(r * I + i)] += scale * u[at(n * R + r)] * mask[at(n * I + i)] * x[at(n * I + i)];
    return out;
  }
  std::vector<T> db(const std::vector<T>& dy) const {
    const std::vector<T> h = down();
    std::vector<T> out(at(O * R), T(0));
    for (int64_t o = 0; o < O; ++o)
      for (int64_t r = 0; r < R; ++r)
        for (int64_t n = 0; n < N; ++n)
          out[at(o * R + r)] += scale * gain(o) * dy[at(n * O + o)] * h[at(n * R + r)];
    return out;
  }

 private:
  static size_t at(int64_t i) { return static_cast<size_t>(i); }
};

}  // namespace lema::ref
