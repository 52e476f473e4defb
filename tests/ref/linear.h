// Reference of a linear with a low-rank adapter, in any number type. Ref: arXiv:2106.09685,
// section 4.1.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace lema::ref {

// y = x W^T + bias + scale (mask o x) A^T B^T. `mask` holds 0 or 1 / (1 - dropout) for each element
// of x.
template <typename T>
struct Linear {
  int64_t N = 0, I = 0, O = 0, R = 0;
  double scale = 1;
  std::vector<T> x, w, bias, a, b;  // (N, I), (O, I), (O), (R, I), (O, R)
  std::vector<double> mask;         // (N, I)

  // h (N, R) = (mask o x) A^T.
  std::vector<T> down() const {
    std::vector<T> h(at(N * R), T(0));
    for (int64_t n = 0; n < N; ++n)
      for (int64_t r = 0; r < R; ++r)
        for (int64_t i = 0; i < I; ++i)
          h[at(n * R + r)] += x[at(n * I + i)] * mask[at(n * I + i)] * a[at(r * I + i)];
    return h;
  }
  std::vector<T> forward() const {
    const std::vector<T> h = down();
    std::vector<T> y(at(N * O), T(0));
    for (int64_t n = 0; n < N; ++n)
      for (int64_t o = 0; o < O; ++o) {
        T& sum = y[at(n * O + o)] = bias.empty() ? T(0) : bias[at(o)];
        for (int64_t i = 0; i < I; ++i) sum += x[at(n * I + i)] * w[at(o * I + i)];
        for (int64_t r = 0; r < R; ++r) sum += scale * h[at(n * R + r)] * b[at(o * R + r)];
      }
    return y;
  }
  // u (N, R) = dy B.
  std::vector<T> up(const std::vector<T>& dy) const {
    std::vector<T> u(at(N * R), T(0));
    for (int64_t n = 0; n < N; ++n)
      for (int64_t r = 0; r < R; ++r)
        for (int64_t o = 0; o < O; ++o) u[at(n * R + r)] += dy[at(n * O + o)] * b[at(o * R + r)];
    return u;
  }
  std::vector<T> dx(const std::vector<T>& dy) const {
    const std::vector<T> u = up(dy);
    std::vector<T> out(at(N * I), T(0));
    for (int64_t n = 0; n < N; ++n)
      for (int64_t i = 0; i < I; ++i) {
        T& sum = out[at(n * I + i)];
        for (int64_t o = 0; o < O; ++o) sum += dy[at(n * O + o)] * w[at(o * I + i)];
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
          out[at(o * R + r)] += scale * dy[at(n * O + o)] * h[at(n * R + r)];
    return out;
  }

 private:
  static size_t at(int64_t i) { return static_cast<size_t>(i); }
};

}  // namespace lema::ref
