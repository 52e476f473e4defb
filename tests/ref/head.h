// Reference of the linear cross-entropy, in any number type: loss[n] = log(sum_v exp(x_n . w_v)) -
// x_n . w_target.
#pragma once

#include <cmath>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace lema::ref {

template <typename T>
struct Head {
  int64_t N = 0, C = 0, V = 0;
  std::vector<T> x, w;           // (N, C), (V, C)
  std::vector<int32_t> targets;  // (N)

  std::vector<T> logits(int64_t n) const {
    std::vector<T> z(static_cast<size_t>(V), T(0));
    for (int64_t v = 0; v < V; ++v)
      for (int64_t c = 0; c < C; ++c) z[at(v)] += x[at(n * C + c)] * w[at(v * C + c)];
    return z;
  }
  std::vector<T> loss() const {
    using std::exp, std::log;
    std::vector<T> out;
    for (int64_t n = 0; n < N; ++n) {
      const std::vector<T> z = logits(n);
      double max = -INFINITY;
      for (const T& value : z) max = std::max(max, std::real(value));
      T sum(0);
      for (const T& value : z) sum += exp(value - max);
      out.push_back(max + log(sum) - z[at(targets[at(n)])]);
    }
    return out;
  }
  // dx[n] = g[n] (sum_v softmax_v w_v - w_target).
  std::vector<T> dx(const std::vector<T>& g) const {
    std::vector<T> out(at(N * C), T(0));
    each_logit_gradient(g, [&](int64_t n, int64_t v, const T& dz) {
      for (int64_t c = 0; c < C; ++c) out[at(n * C + c)] += dz * w[at(v * C + c)];
    });
    return out;
  }

  // dw[v] = sum over n of g[n] (softmax_v - [v is the target]) x_n.
  std::vector<T> dw(const std::vector<T>& g) const {
    std::vector<T> out(at(V * C), T(0));
    each_logit_gradient(g, [&](int64_t n, int64_t v, const T& dz) {
      for (int64_t c = 0; c < C; ++c) out[at(v * C + c)] += dz * x[at(n * C + c)];
    });
    return out;
  }

 private:
  // fn(n, v, g[n] (softmax_v - [v is the target])).
  template <typename Fn>
  void each_logit_gradient(const std::vector<T>& g, const Fn& fn) const {
    using std::exp;
    const std::vector<T> losses = loss();
    for (int64_t n = 0; n < N; ++n) {
      const std::vector<T> z = logits(n);
      const T lse = losses[at(n)] + z[at(targets[at(n)])];
      for (int64_t v = 0; v < V; ++v)
        fn(n, v, g[at(n)] * (exp(z[at(v)] - lse) - (v == targets[at(n)] ? 1.0 : 0.0)));
    }
  }
  static size_t at(int64_t i) { return static_cast<size_t>(i); }
};

}  // namespace lema::ref
