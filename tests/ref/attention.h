// Causal softmax attention of packed sequences, arXiv:1706.03762 eq. 1, on any number type; grouped
// heads as in arXiv:2305.13245. q (Nq, H, D), k, v (Nkv, Hkv, D). Each (sequence, head, query) on
// its own, scores in full.
#pragma once

#include <array>
#include <cmath>
#include <complex>
#include <vector>

namespace lema::ref {

struct Attention {
  size_t H, Hkv, D;
  double scale;
  std::vector<std::array<size_t, 4>> sequences;  // q_begin, q_len, kv_begin, kv_len
  size_t window = 0;                             // keys that a query sees at most; 0: all
  size_t q(size_t n, size_t h) const { return (n * H + h) * D; }
  size_t kv(size_t n, size_t h) const { return (n * Hkv + h / (H / Hkv)) * D; }

  // body(query row, first key row, keys seen, head) for each row of each sequence.
  template <typename Body>
  void each(const Body& body) const {
    for (const auto& [q_begin, q_len, kv_begin, kv_len] : sequences)
      for (size_t i = 0; i < q_len; ++i)
        for (size_t h = 0; h < H; ++h) {
          const size_t before = kv_len - q_len + i + 1;
          const size_t seen = window > 0 && window < before ? window : before;
          body(q_begin + i, kv_begin + before - seen, seen, h);
        }
  }
};

// exp(score), unshifted: test scores are small. `lse` (Nq, H) is the log of their sum.
template <typename T>
std::vector<T> attention(std::vector<T>& lse, const std::vector<T>& q, const std::vector<T>& k,
                         const std::vector<T>& v, const Attention& a) {
  std::vector<T> o(q.size());
  lse.assign(q.size() / a.D, T{});
  a.each([&](size_t n, size_t first, size_t keys, size_t h) {
    T sum = 0;
    for (size_t j = first; j < first + keys; ++j) {
      T score = 0;
      for (size_t d = 0; d < a.D; ++d) score += a.scale * q[a.q(n, h) + d] * k[a.kv(j, h) + d];
      const T p = std::exp(score);
      sum += p;
      for (size_t d = 0; d < a.D; ++d) o[a.q(n, h) + d] += p * v[a.kv(j, h) + d];
    }
    for (size_t d = 0; d < a.D; ++d) o[a.q(n, h) + d] /= sum;
    lse[n * a.H + h] = std::log(sum);
  });
  return o;
}

// Softmax gradient: ds_j = p_j (dp_j - sum_i p_i dp_i) with dp_j = do . v_j.
inline void attention_backward(std::vector<double>& dq, std::vector<double>& dk,
                               std::vector<double>& dv, const std::vector<double>& d_o,
                               const std::vector<double>& q, const std::vector<double>& k,
                               const std::vector<double>& v, const Attention& a) {
  dq.assign(q.size(), 0);
  dk.assign(k.size(), 0);
  dv.assign(v.size(), 0);
  a.each([&](size_t n, size_t first, size_t keys, size_t h) {
    std::vector<double> p(keys), dp(keys);
    double sum = 0, mean = 0;
    const size_t qn = a.q(n, h);
    for (size_t j = 0; j < keys; ++j) {
      double score = 0;
      for (size_t d = 0; d < a.D; ++d) score += a.scale * q[qn + d] * k[a.kv(first + j, h) + d];
      for (size_t d = 0; d < a.D; ++d) dp[j] += d_o[qn + d] * v[a.kv(first + j, h) + d];
      sum += p[j] = std::exp(score);
    }
    for (size_t j = 0; j < keys; ++j) mean += (p[j] /= sum) * dp[j];
    for (size_t j = 0; j < keys; ++j)
      for (size_t d = 0; d < a.D; ++d) {
        const size_t kj = a.kv(first + j, h) + d;
        dq[qn + d] += a.scale * p[j] * (dp[j] - mean) * k[kj];
        dk[kj] += a.scale * p[j] * (dp[j] - mean) * q[qn + d];
        dv[kj] += p[j] * d_o[qn + d];
      }
  });
}

}  // namespace lema::ref
