// On AMX 32 rows of W are two tiles; each is loaded once and multiplied by every part of x. With
// AVX512-BF16 the rows of x are the lanes of 16 sums, one for a row of W, so that nothing is added
// up across lanes.
#include "cpu/matvec_pairs.h"

#include <immintrin.h>

#include <cstring>

#include "cpu/amx.h"
#include "cpu/gemm_bf16.h"
#include "cpu/simd.h"
#include "cpu/transpose.h"

namespace lema::cpu {
namespace {

constexpr int64_t kSide = kAmxRows;    // rows of a tile, and its 32-bit columns
constexpr int64_t kStep = 32;          // columns of W in a tile
constexpr int64_t kAhead = 4 * kStep;  // columns that the prefetch is ahead of the products
constexpr int64_t kLanesAhead = 8 * kStep;  // likewise
constexpr int64_t kLaneRows = 9;  // of x at least: fewer are faster as dot products
constexpr int64_t kTileFloats = kSide * kSide;  // 1 KiB

using Sums = float[kSide][kTransposeCols];  // (rows of W, rows of x)
constexpr int64_t kSumsBytes = kTransposeCols * sizeof(float);

// sums[0] and sums[1]: the two tiles of W times the first part of x; with three parts sums[2] and
// sums[3] times the others. Two sums run side by side, with three parts four.
template <int64_t kParts>
[[gnu::target("amx-tile,amx-bf16")]] void multiply_tiles(Sums* sums, const float* pairs,
                                                         const bf16* w, int64_t stride, int64_t I,
                                                         bool goes_on) {
  const auto w_bytes = static_cast<size_t>(stride) * sizeof(bf16);
  const bf16* lower = w + kSide * stride;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t i = 0; i < I; i += kStep) {
    // Past the end of a row lies the beginning of the same row of the next call.
    const bf16* next = w + (i + kAhead < I ? i + kAhead : i + kAhead - I + kPairCols * stride);
    if (i + kAhead < I || goes_on)
#pragma GCC unroll 4
      for (int64_t row = 0; row < kPairCols; ++row) __builtin_prefetch(next + row * stride);
    const float* x = pairs + i / 2 * kSide * kParts;
    _tile_loadd(6, x, 64);
    _tile_loadd(4, w + i, w_bytes);
    _tile_loadd(5, lower + i, w_bytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 5, 6);
    if constexpr (kParts == 3) {
      _tile_loadd(7, x + kTileFloats, 64);
      _tile_dpbf16ps(2, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
      _tile_loadd(7, x + 2 * kTileFloats, 64);
      _tile_dpbf16ps(2, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, sums[0], kSumsBytes);
  _tile_stored(1, sums[1], kSumsBytes);
  if constexpr (kParts == 3) {
    _tile_stored(2, sums[2], kSumsBytes);
    _tile_stored(3, sums[3], kSumsBytes);
  }
}

// sums[o] = row o of W times all rows of x, for 16 rows of W.
[[gnu::target("avx512f,avx512bf16")]] void multiply_lanes(Sums& sums, const float* pairs,
                                                          const bf16* w, int64_t stride, int64_t I,
                                                          bool goes_on) {
  __m512 acc[kSide];
#pragma GCC unroll 16
  for (auto& sum : acc) sum = _mm512_setzero_ps();
  for (int64_t i = 0; i < I; i += kStep) {
    const bf16* next = w + (i + kLanesAhead < I ? i + kLanesAhead
                                                : i + kLanesAhead - I + kSide * stride);
    const int64_t next_row = i + kLanesAhead < I || goes_on ? stride : 0;
    for (int64_t k = i; k < i + kStep; k += 2, next += next_row) {
      __builtin_prefetch(next);
      const __m512i x = _mm512_loadu_si512(pairs + k / 2 * kSide);
#pragma GCC unroll 16
      for (int64_t row = 0; row < kSide; ++row) {
        int32_t pair;
        std::memcpy(&pair, w + row * stride + k, sizeof pair);
        acc[row] = _mm512_dpbf16_ps(acc[row], reinterpret_cast<__m512bh>(x),
                                    reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair)));
      }
    }
  }
#pragma GCC unroll 16
  for (int64_t row = 0; row < kSide; ++row) _mm512_storeu_ps(sums[row], acc[row]);
}

// parts[p][j] = the p-th part of x[j], n a multiple of W: its highest bits that are left, cut off,
// so that the parts add up to x exactly.
template <int W>
[[gnu::always_inline]] inline void cut(bf16* const* parts, int64_t count, const float* x,
                                       int64_t n) {
  using U = typename Lanes<W>::U;
  for (int64_t j = 0; j < n; j += W) {
    Floats<W> left = load<W>(x + j);
    for (int64_t p = 0; p < count; ++p) {
      const auto part = reinterpret_cast<Floats<W>>(reinterpret_cast<U>(left) & 0xffff0000u);
      store<W>(parts[p] + j, part);
      left -= part;
    }
  }
}

}  // namespace

bool few_run_in_pairs(DType weight, int64_t N, int64_t I, DType X) {
  if (weight != DType::BF16 || I % kStep != 0) return false;
  return bf16_products() == Bf16Products::Amx
             ? N > 1
             : bf16_products() == Bf16Products::Avx512 && X == DType::BF16 && N >= kLaneRows;
}

void pack_few_pairs(float* pairs, const float* x, int64_t N, int64_t I, DType X) {
  const int64_t parts = few_parts(X);
  Sums rows[3] = {};
  for (int64_t i = 0; i < I; i += kStep) {
    vectorised([&](auto lanes) {
      for (int64_t row = 0; row < N; ++row) {
        bf16* to[3];
        for (int p = 0; p < 3; ++p) to[p] = reinterpret_cast<bf16*>(rows[p][row]);
        cut<lanes.kCount>(to, parts, x + row * I + i, kStep);
      }
    });
    for (int64_t p = 0; p < parts; ++p, pairs += kTileFloats)
      transpose_lane(pairs, kSide, rows[p], kSide);
  }
}

void multiply_few_pairs(float* tile, int64_t ldt, const float* pairs, const bf16* w,
                        int64_t stride, int64_t N, int64_t I, DType X, bool goes_on) {
  Sums sums[4];
  const bool on_amx = bf16_products() == Bf16Products::Amx;
  const TileRegisters registers(on_amx);
  if (!on_amx) {
    multiply_lanes(sums[0], pairs, w, stride, I, true);
    multiply_lanes(sums[1], pairs, w + kSide * stride, stride, I, goes_on);
  } else if (X == DType::F32) {
    multiply_tiles<3>(sums, pairs, w, stride, I, goes_on);
    for (int64_t t = 0; t < 2; ++t)
      for (int64_t o = 0; o < kSide; ++o)
        for (int64_t n = 0; n < kSide; ++n) sums[t][o][n] += sums[t + 2][o][n];
  } else {
    multiply_tiles<1>(sums, pairs, w, stride, I, goes_on);
  }
  for (int64_t t = 0; t < 2; ++t) transpose_lane(tile + t * kSide, ldt, sums[t], N);
}

}  // namespace lema::cpu
