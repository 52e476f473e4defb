// Two layouts: weight rows as long dot products (O, I), in pairs where the CPU can, or weight rows
// added up (I, O).
#include "cpu/matvec.h"

#include <algorithm>
#include <cstring>

#include "cpu/matvec_pairs.h"
#include "cpu/simd.h"
#include "dispatch.h"

namespace lema::cpu {
namespace {

template <typename T>
struct Few {
  float* tile;  // rows kFewCols apart
  const float* x;
  const T* w;
  int64_t ldw, N, I, n;
  bool accumulate, goes_on;

  [[gnu::always_inline]] void put(int64_t row, int64_t column, float value) const {
    float& out = tile[row * kFewCols + column];
    out = accumulate ? out + value : value;
  }
};

template <int W, bool kRound, typename T, typename Count>
[[gnu::always_inline]] inline Floats<W> weight(const T* w, Count n) {
  const Floats<W> v = load<W>(w, n);
  return kRound ? rounded_to<W, bf16>(v) : v;
}

// One level of sums(): lanes of `a` and `b` in groups of 2 kHalf, the halves of each group added;
// the groups of `a` come first.
template <int W, int kHalf>
[[gnu::always_inline]] inline Floats<W> add_halves(Floats<W> a, Floats<W> b) {
  Ints<W> first{};
  for (int j = 0; j < W; ++j) first[j] = j / kHalf * 2 * kHalf + j % kHalf;
  return __builtin_shuffle(a, b, first) + __builtin_shuffle(a, b, first + kHalf);
}

// out[i] = sum<W>(v[i]), halves added in the same order; v is used up. At level kHalf the vectors
// that are left hold W / (2 kHalf) sums each.
template <int W, int kHalf, int kLeft, int kCount>
[[gnu::always_inline]] inline void sums(Floats<W> (&v)[kCount], float* out) {
  if constexpr (kHalf > 0) {
    constexpr int kPairs = (kLeft + 1) / 2;
#pragma GCC unroll 16
    for (int i = 0; i < kPairs; ++i)
      v[i] = add_halves<W, kHalf>(v[2 * i], v[2 * i + 1 < kLeft ? 2 * i + 1 : 2 * i]);
    sums<W, kHalf / 2, kPairs>(v, out);
  } else {
    float all[kLeft * W];
#pragma GCC unroll 16
    for (int i = 0; i < kLeft; ++i) store<W>(all + i * W, v[i]);
    std::memcpy(out, all, kCount * sizeof(float));
  }
}

// w (O, I): kWeights rows of it against kRows rows of x, a cache line of each weight row at a time;
// rows of w past the end repeat the last one. The first rows of x ask for the weights that come
// next: they lie in pages that nobody has touched, where the CPU does not look ahead.
template <int W, bool kRound, int kWeights, int kRows, typename T>
[[gnu::always_inline]] inline void dot_rows(const Few<T>& p, int64_t n0, int64_t o0) {
  Floats<W> acc[kWeights * kRows] = {};
  const T* w[kWeights];
  for (int o = 0; o < kWeights; ++o) w[o] = p.w + std::min(o0 + o, p.n - 1) * p.ldw;
  const float* x = p.x + n0 * p.I;
  const int64_t I = p.I;
  const int64_t ahead = n0 == 0 && (p.goes_on || o0 + kWeights < p.n) ? kWeights * p.ldw : 0;
  const auto add = [&](int64_t i, auto count) {
#pragma GCC unroll 8
    for (int o = 0; o < kWeights; ++o) {
      const Floats<W> wv = weight<W, kRound>(w[o] + i, count);
#pragma GCC unroll 8
      for (int n = 0; n < kRows; ++n) acc[o * kRows + n] += wv * load<W>(x + n * I + i, count);
    }
  };
  constexpr int64_t kLine = 64 / sizeof(T), kStep = std::max<int64_t>(W, kLine);
  int64_t i = 0;
  for (; i + kStep <= I; i += kStep) {
#pragma GCC unroll 8
    for (int o = 0; o < kWeights; ++o)
      if (ahead != 0) __builtin_prefetch(w[o] + ahead + i);
#pragma GCC unroll 8
    for (int64_t j = 0; j < kStep; j += W) add(i + j, Full<W>{});
  }
  for (; i + W <= I; i += W) add(i, Full<W>{});
  if (i < I) add(i, I - i);
  float dots[kWeights * kRows];
  sums<W, W / 2, kWeights * kRows>(acc, dots);
  for (int o = 0; o < kWeights && o0 + o < p.n; ++o)
    for (int n = 0; n < kRows; ++n) p.put(n0 + n, o0 + o, dots[o * kRows + n]);
}

// All rows of x from `row` on, kRows at a time, against w; returns the first row that is left.
template <int W, bool kRound, int kWeights, int kRows, typename T>
[[gnu::always_inline]] inline int64_t dot_blocks(const Few<T>& p, int64_t row) {
  const int64_t end = row + (p.N - row) / kRows * kRows;
  for (int64_t o = 0; o < p.n && row < end; o += kWeights)
    for (int64_t n = row; n < end; n += kRows) dot_rows<W, kRound, kWeights, kRows>(p, n, o);
  return end;
}

// Sixteen sums at a time fill half of the AVX-512 registers; a weight is widened once for all rows
// of a block.
template <int W, bool kRound, typename T>
[[gnu::always_inline]] inline void multiply_dots(const Few<T>& p) {
  int64_t row = dot_blocks<W, kRound, 2, 8>(p, 0);
  row = dot_blocks<W, kRound, 4, 4>(p, row);
  dot_blocks<W, kRound, 4, 1>(p, row);
}

// w (I, O): kRows rows of x from `row` on against w, a weight row at a time.
template <int W, bool kRound, int kRows, typename T>
[[gnu::always_inline]] inline void add_rows(const Few<T>& p, int64_t row) {
  constexpr int kVectors = static_cast<int>(kFewCols) / W;
  Floats<W> acc[kRows][kVectors] = {};
  const float* x = p.x + row * p.I;
  const int64_t I = p.I;
  for (int64_t i = 0; i < I; ++i) {
    const T* w = p.w + i * p.ldw;
    const auto add = [&](int v, auto count) {
      const Floats<W> wv = weight<W, kRound>(w + v * W, count);
#pragma GCC unroll 4
      for (int n = 0; n < kRows; ++n) acc[n][v] += x[n * I + i] * wv;
    };
    if (p.n == kFewCols) {
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) add(v, Full<W>{});
    } else {
      for (int v = 0; v * W < p.n; ++v) add(v, std::min<int64_t>(W, p.n - v * W));
    }
  }
  for (int n = 0; n < kRows; ++n)
    for (int v = 0; v * W < p.n; ++v)
      for (int j = 0; j < W && v * W + j < p.n; ++j) p.put(row + n, v * W + j, acc[n][v][j]);
}

// Four rows of x fill half of the AVX-512 registers with sums, one those of the others; the rows
// after them find w in the cache.
template <int W, bool kRound, typename T>
[[gnu::always_inline]] inline void multiply_rows(const Few<T>& p) {
  constexpr int kRows = W == 16 ? 4 : 1;
  int64_t row = 0;
  for (; row + kRows <= p.N; row += kRows) add_rows<W, kRound, kRows>(p, row);
  for (; row < p.N; ++row) add_rows<W, kRound, 1>(p, row);
}

}  // namespace

void multiply_few(float* tile, const FewRows& x, const Operand& w, int64_t n, Write write, DType X,
                  bool goes_on) {
  const bool dots = w.row_stride == 1;
  if (dots && x.pairs != nullptr && n == kPairCols && write == Write::Overwrite &&
      few_run_in_pairs(w.dtype, x.N, x.I, X))
    return multiply_few_pairs(tile, kFewCols, x.pairs, static_cast<const bf16*>(w.data),
                              w.col_stride, x.N, x.I, X, goes_on);
  const int64_t ldw = dots ? w.col_stride : w.row_stride;
  const bool accumulate = write == Write::Accumulate, round = X == DType::BF16 && w.dtype != X;
  with_storage(w.dtype, [&]<typename T>(Type<T>) {
    const Few<T> part = {tile,       x.rows, static_cast<const T*>(w.data), ldw, x.N, x.I, n,
                         accumulate, goes_on};
    vectorised([&](auto lanes) {
      constexpr int W = lanes.kCount;
      if (round)
        dots ? multiply_dots<W, true>(part) : multiply_rows<W, true>(part);
      else
        dots ? multiply_dots<W, false>(part) : multiply_rows<W, false>(part);
    });
  });
}

}  // namespace lema::cpu
