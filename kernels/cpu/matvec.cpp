// Two layouts: weight rows as long dot products (O, I), or weight rows added up column chunk by
// column chunk (I, O).
#include "cpu/matvec.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "cpu/simd.h"
#include "cpu/tile.h"
#include "dispatch.h"

namespace lema::cpu {
namespace {

constexpr int64_t kChunk = 64;  // output columns of one task

// One chunk: columns [begin, begin + n) of y.
template <typename T>
struct Few {
  float* y;
  int64_t ldy;
  const float* x;
  int64_t ldx;
  const T* w;
  int64_t ldw, N, I, begin, n;
  bool accumulate, round;  // round: w to bf16

  void put(int64_t row, int64_t column, float value) const {
    float& out = y[row * ldy + column];
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

// w (O, I): kWeights rows of it against kRows rows of x; rows of w past the end repeat the last
// one. The first rows of x ask for the weights that come next: they lie in pages that nobody has
// touched, where the CPU does not look ahead.
template <int W, bool kRound, int kWeights, int kRows, typename T>
[[gnu::always_inline]] inline void dot_rows(const Few<T>& p, int64_t n0, int64_t o0) {
  Floats<W> acc[kWeights * kRows] = {};
  const T* w[kWeights];
  for (int o = 0; o < kWeights; ++o) w[o] = p.w + std::min(o0 + o, p.n - 1) * p.ldw;
  const float* x = p.x + n0 * p.ldx;
  const int64_t ahead = n0 == 0 ? kWeights * p.ldw : 0;
  for_columns<W>(p.I, [&](int64_t i, auto count) {
#pragma GCC unroll 8
    for (int o = 0; o < kWeights; ++o) {
      if (ahead != 0) __builtin_prefetch(w[o] + ahead + i);
      const Floats<W> wv = weight<W, kRound>(w[o] + i, count);
#pragma GCC unroll 8
      for (int n = 0; n < kRows; ++n) acc[o * kRows + n] += wv * load<W>(x + n * p.ldx + i, count);
    }
  });
  float dots[kWeights * kRows];
  sums<W, W / 2, kWeights * kRows>(acc, dots);
  for (int o = 0; o < kWeights && o0 + o < p.n; ++o)
    for (int n = 0; n < kRows; ++n) p.put(n0 + n, p.begin + o0 + o, dots[o * kRows + n]);
}

// All rows of x, kRows at a time, against the chunk.
template <int W, bool kRound, int kWeights, int kRows, typename T>
[[gnu::always_inline]] inline int64_t dot_blocks(const Few<T>& p, int64_t row) {
  const int64_t end = row + (p.N - row) / kRows * kRows;
  for (int64_t o = 0; o < p.n && row < end; o += kWeights)
    for (int64_t n = row; n < end; n += kRows) dot_rows<W, kRound, kWeights, kRows>(p, n, o);
  return end;
}

// w (I, O): one row of x against the chunk, a weight row at a time; the chunk of w stays in the
// cache for the next.
template <int W, bool kRound, typename T>
[[gnu::always_inline]] inline void add_rows(const Few<T>& p, int64_t row) {
  constexpr int kVectors = static_cast<int>(kChunk) / W;
  Floats<W> acc[kVectors] = {};
  const float* x = p.x + row * p.ldx;
  for (int64_t i = 0; i < p.I; ++i) {
    const T* w = p.w + i * p.ldw;
    if (p.n == kChunk) {
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) acc[v] += x[i] * weight<W, kRound>(w + v * W, Full<W>{});
    } else {
      for (int v = 0; v * W < p.n; ++v)
        acc[v] += x[i] * weight<W, kRound>(w + v * W, std::min<int64_t>(W, p.n - v * W));
    }
  }
  for (int v = 0; v * W < p.n; ++v)
    for (int j = 0; j < W && v * W + j < p.n; ++j) p.put(row, p.begin + v * W + j, acc[v][j]);
}

template <int W, bool kRound, typename T>
[[gnu::always_inline]] inline void multiply_chunk(const Few<T>& p, bool dots) {
  if (!dots) {
    for (int64_t row = 0; row < p.N; ++row) add_rows<W, kRound>(p, row);
    return;
  }
  // Sixteen sums at a time fill half of the AVX-512 registers; a weight is widened once for all
  // rows of a block.
  int64_t row = dot_blocks<W, kRound, 2, 8>(p, 0);
  row = dot_blocks<W, kRound, 4, 4>(p, row);
  dot_blocks<W, kRound, 8, 1>(p, row);
}

}  // namespace

void multiply_few(ThreadPool& pool, float* y, int64_t ldy, const float* x, int64_t ldx,
                  const Operand& w, int64_t N, int64_t O, int64_t I, Write write, DType X) {
  check(N <= kFewRows, "{} rows", N);
  const bool dots = w.row_stride == 1;
  with_storage(w.dtype, [&]<typename T>(Type<T>) {
    run(pool, tile_count(O, kChunk), [&](int64_t chunk) {
      const int64_t begin = chunk * kChunk;
      const auto* first = static_cast<const T*>(w.from(0, begin).data);
      const Few<T> part = {y,
                           ldy,
                           x,
                           ldx,
                           first,
                           dots ? w.col_stride : w.row_stride,
                           N,
                           I,
                           begin,
                           std::min(kChunk, O - begin),
                           write == Write::Accumulate,
                           X == DType::BF16 && w.dtype != X};
      vectorised([&](auto lanes) {
        constexpr int W = lanes.kCount;
        if (part.round)
          multiply_chunk<W, true>(part, dots);
        else
          multiply_chunk<W, false>(part, dots);
      });
    });
  });
}

}  // namespace lema::cpu
