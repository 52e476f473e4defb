// Panels of pairs: packing, the left operand's copy, and the products: AMX takes 32 rows by 48
// columns at a time, AVX512-BF16 adds products of pairs to 8 rows by 48 columns. Called by gemm.cpp
// and by attention's tiles.
#include "cpu/gemm_bf16.h"

#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "core/error.h"
#include "cpu/amx.h"
#include "cpu/convert.h"
#include "cpu/simd.h"
#include "cpu/tile.h"
#include "cpu/transpose.h"

namespace lema::cpu {
namespace {

constexpr int kRows = 8;  // rows of the AVX-512 kernel
constexpr int64_t kRowsAhead = 8;  // of a matrix that is packed, asked for before they are read
// Columns of A that meet a sliver at a time, so that both stay in the L1 cache: of A as it is, and
// in three parts.
constexpr int64_t kWholeBlock = 288, kSplitBlock = 128;
// Rows and columns of A that are split at a time: long runs of memory, and the parts fit the L2.
constexpr int64_t kSplitRows = 2 * kAmxRows, kSplitColumns = 768;
static_assert(kTileRows * kWholeBlock <= 2 * kMultiplyScratch &&
              3 * kSplitRows * kSplitColumns <= 2 * kMultiplyScratch);

std::atomic<Bf16Products>& chosen() {
  static std::atomic<Bf16Products> products = widest_bf16_products();
  return products;
}

template <int kLanes>
[[gnu::target("avx512f,avx512bf16")]] void multiply_avx512(const PairBlock& p) {
  const bf16* row[kRows];
  __m512 acc[kRows][kLanes];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    row[i] = p.a + std::min<int64_t>(i, p.m - 1) * p.lda;
#pragma GCC unroll 3
    for (int v = 0; v < kLanes; ++v)
      acc[i][v] =
          p.accumulate && i < p.m ? _mm512_loadu_ps(p.c + i * p.ldc + 16 * v) : _mm512_setzero_ps();
  }
  const bf16* b = p.b;
  for (int64_t k = 0; k < p.K; k += 2, b += 32 * kLanes) {
    __m512i bv[kLanes];
#pragma GCC unroll 3
    for (int v = 0; v < kLanes; ++v) bv[v] = _mm512_loadu_si512(b + 32 * v);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      int32_t pair;
      std::memcpy(&pair, row[i] + k, sizeof pair);
      const __m512i av = _mm512_set1_epi32(pair);
#pragma GCC unroll 3
      for (int v = 0; v < kLanes; ++v)
        acc[i][v] = _mm512_dpbf16_ps(acc[i][v], reinterpret_cast<__m512bh>(av),
                                     reinterpret_cast<__m512bh>(bv[v]));
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    if (i >= p.m) break;
#pragma GCC unroll 3
    for (int v = 0; v < kLanes; ++v) _mm512_storeu_ps(p.c + i * p.ldc + 16 * v, acc[i][v]);
  }
}

// Asks for `bytes` of memory to come into the cache.
void prefetch(const void* p, int64_t bytes) {
  const auto* at = static_cast<const char*>(p);
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(at + i);
}

// in[i] as bf16.
void narrow_operand(bf16* out, const void* in, DType dtype, int64_t n) {
  if (dtype == DType::BF16) {
    std::memcpy(out, in, static_cast<size_t>(n) * sizeof(bf16));
    return;
  }
  float wide[256];
  for (int64_t i = 0; i < n; i += 256) {
    const int64_t count = std::min<int64_t>(256, n - i);
    widen(wide, static_cast<const char*>(in) + i * element_bytes(dtype), dtype, count);
    narrow(out + i, DType::BF16, wide, count);
  }
}

// in[i] = out[i] + out[part + i] + out[2 part + i], 8 bits of its 24 each; n is a multiple of 32.
[[gnu::target("avx512f,avx512bw")]] void split(bf16* out, int64_t part, const float* in,
                                               int64_t n) {
  using U = Lanes<16>::U;
  for (int64_t i = 0; i < n; i += 32) {
    Floats<16> rest[2] = {load<16>(in + i), load<16>(in + i + 16)};
#pragma GCC unroll 3
    for (int64_t p = 0; p < 3; ++p) {
      U top[2];
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) {
        top[v] = reinterpret_cast<U>(rest[v]) & 0xffff0000u;
        rest[v] -= reinterpret_cast<Floats<16>>(top[v]);
      }
      const auto halves = upper_halves<16>(top[0], top[1]);
      std::memcpy(out + p * part + i, &halves, sizeof halves);
    }
  }
}

// Columns contiguous in memory: a pair is 32 bits that lie together, so pairs are transposed as f32
// are.
void pack_columns(bf16* sliver, int64_t width, const Operand& b, int64_t K, int64_t n) {
  constexpr int64_t kStep = 2 * kTransposeCols;
  float pairs[16][kTransposeCols] = {};
  for (int64_t j0 = 0; j0 < width; j0 += 16)
    for (int64_t k0 = 0; k0 < K; k0 += kStep) {
      const int64_t kn = std::min(kStep, K - k0);
      if (b.dtype == DType::BF16 && b.col_stride % 2 == 0 && j0 + 16 <= n &&
          kn % kInnerStep == 0) {  // from where it lies
        if (j0 + 32 <= n)
          for (int64_t j = 16; j < 32; ++j) prefetch(b.from(k0, j0 + j).data, 2 * kn);
        transpose_lane(reinterpret_cast<float*>(sliver) + k0 / 2 * width + j0, width,
                       static_cast<const float*>(b.from(k0, j0).data), b.col_stride / 2, kn / 2);
        continue;
      }
      for (int64_t j = 0; j < 16; ++j) {
        auto* to = reinterpret_cast<std::byte*>(pairs[j]);
        const int64_t filled = j0 + j < n ? kn : 0;
        if (filled > 0)
          narrow_operand(reinterpret_cast<bf16*>(to), b.from(k0, j0 + j).data, b.dtype, kn);
        std::fill(to + 2 * filled, to + 4 * kTransposeCols, std::byte{0});
      }
      const int64_t rows = std::min(kTransposeCols, round_up(K - k0, kInnerStep) / 2);
      transpose_lane(reinterpret_cast<float*>(sliver) + k0 / 2 * width + j0, width, pairs, rows);
    }
}

// out[2 j] = even[j], out[2 j + 1] = odd[j]; n is rounded up to 16.
[[gnu::target("avx512f,avx512bw")]] void interleave(bf16* out, const bf16* even, const bf16* odd,
                                                    int64_t n) {
  alignas(64) static constexpr uint16_t kOrder[32] = {
      0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
      8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i order = _mm512_load_si512(kOrder);
  for (int64_t j = 0; j < n; j += 16) {
    const __m256i e = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(even + j));
    const __m256i o = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(odd + j));
    _mm512_storeu_si512(out + 2 * j, _mm512_permutex2var_epi16(_mm512_castsi256_si512(e), order,
                                                               _mm512_castsi256_si512(o)));
  }
}

// The same of f32 numbers, rounded to bf16; n is a multiple of 16.
[[gnu::target("avx512f,avx512bw,avx512bf16")]] void interleave(bf16* out, const float* even,
                                                               const float* odd, int64_t n) {
  alignas(64) static constexpr uint16_t kOrder[32] = {
      0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i order = _mm512_load_si512(kOrder);
  for (int64_t j = 0; j < n; j += 16) {
    const __m512bh both = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(odd + j), _mm512_loadu_ps(even + j));
    _mm512_storeu_si512(out + 2 * j,
                        _mm512_permutexvar_epi16(order, reinterpret_cast<__m512i>(both)));
  }
}

// Rows k and k + 1 of m (K, n), n <= 64, interleaved and zero beyond m, up to `width` columns.
void interleave_rows(bf16* out, const Operand& m, int64_t k, int64_t K, int64_t n, int64_t width) {
  const void *even = m.from(k, 0).data, *odd = m.from(k + 1, 0).data;
  const bool whole = n == width && n % 16 == 0 && k + 1 < K;
  if (whole && m.dtype == DType::BF16)
    return interleave(out, static_cast<const bf16*>(even), static_cast<const bf16*>(odd), n);
  if (whole && m.dtype == DType::F32)
    return interleave(out, static_cast<const float*>(even), static_cast<const float*>(odd), n);
  bf16 rows[2][kTransposeCols] = {}, both[2 * kTransposeCols];
  for (int64_t i = 0; i < 2 && k + i < K; ++i)
    narrow_operand(rows[i], m.from(k + i, 0).data, m.dtype, n);
  interleave(both, rows[0], rows[1], width);
  std::copy_n(both, 2 * width, out);
}

// A (M, K) as contiguous rows of bf16, zero up to a multiple of kInnerStep columns.
void copy_rows(bf16* out, const Operand& a, int64_t M, int64_t K) {
  const int64_t padded = round_up(K, kInnerStep);
  if (a.col_stride == 1) {
    for (int64_t i = 0; i < M; ++i) {
      narrow_operand(out + i * padded, a.from(i, 0).data, a.dtype, K);
      std::fill(out + i * padded + K, out + (i + 1) * padded, bf16{0});
    }
    return;
  }
  // Columns contiguous: 16 pairs of them are interleaved, then transposed.
  float pairs[16][kTransposeCols] = {};
  for (int64_t i = 0; i < M; i += kTransposeCols)
    for (int64_t k = 0; k < padded; k += kInnerStep) {
      const int64_t m = std::min(kTransposeCols, M - i);
      for (int64_t q = 0; q < 16; ++q)
        interleave_rows(reinterpret_cast<bf16*>(pairs[q]), a.from(i, 0).transposed(), k + 2 * q, K,
                        m, round_up(m, 8));
      transpose_lane(reinterpret_cast<float*>(out + i * padded + k), padded / 2, pairs, m);
    }
}

// A (M, K), K <= kSplitColumns, as split rows, a part `padded` elements long, zero past K.
void split_rows(bf16* out, const Operand& a, int64_t M, int64_t K, int64_t padded) {
  float wide[kSplitColumns] = {};
  for (int64_t i = 0; i < M; ++i, out += 3 * padded) {
    if (a.dtype == DType::F32 && a.col_stride == 1 && K == padded) {
      split(out, padded, static_cast<const float*>(a.from(i, 0).data), K);
      continue;
    }
    if (a.col_stride == 1)
      widen(wide, a.from(i, 0).data, a.dtype, K);
    else
      for (int64_t k = 0; k < K; ++k) widen(wide + k, a.from(i, k).data, a.dtype, 1);
    split(out, padded, wide, padded);
  }
}

// For the rows that a block has: 8 in AVX-512, 16 or 32 in AMX.
PairKernel pair_kernel(int64_t rows, int64_t lanes, int64_t parts) {
  static constexpr PairKernel kAvx512[] = {multiply_avx512<1>, multiply_avx512<2>,
                                           multiply_avx512<3>};
  return rows == kRows ? kAvx512[lanes - 1] : amx_kernel(rows, lanes, parts);
}

// One block of at most `rows` rows against one sliver, of which n columns exist in c. The block
// goes to the kernel as it came: rebuilt, its reads would wait for the stores behind which it lies.
void multiply_block(const PairBlock& p, int64_t n, int64_t rows, int64_t parts) {
  const int64_t width = round_up(n, kLane);
  const PairKernel kernel = pair_kernel(rows, width / kLane, parts);
  if (n == width && (p.m == rows || rows == kRows)) return kernel(p);
  float edge[2 * kAmxRows * kSliver];
  for (int64_t r = 0; p.accumulate && r < p.m; ++r)
    std::copy_n(p.c + r * p.ldc, n, edge + r * width);
  PairBlock q = p;
  q.c = edge, q.ldc = width;
  kernel(q);
  for (int64_t r = 0; r < p.m; ++r) std::copy_n(edge + r * width, n, p.c + r * p.ldc);
}

}  // namespace

Bf16Products widest_bf16_products() {
  if (widest_isa() != Isa::Avx512 || !__builtin_cpu_supports("avx512bf16"))
    return Bf16Products::Widened;
  static const bool amx = amx_granted();
  return amx ? Bf16Products::Amx : Bf16Products::Avx512;
}

Bf16Products bf16_products() {
  return isa() == Isa::Avx512 ? chosen().load(std::memory_order_relaxed) : Bf16Products::Widened;
}

void use_bf16_products(Bf16Products products) {
  check(products <= widest_bf16_products(), "bf16 products {} asked of a CPU with {}",
        static_cast<int>(products), static_cast<int>(widest_bf16_products()));
  chosen().store(products, std::memory_order_relaxed);
}

bool packs_pairs(DType b, DType X) {
  const Bf16Products products = bf16_products();
  if (X == DType::BF16) return products != Bf16Products::Widened;
  return X == DType::F32 && b == DType::BF16 && products == Bf16Products::Amx;
}

void pack_pairs(const Panel& panel, const Operand& b, int64_t N) {
  const auto sliver = [&](int64_t j) {
    return reinterpret_cast<bf16*>(panel.columns_from(j).data);
  };
  const auto columns = [&](int64_t j) { return std::min(kSliver, N - j); };
  if (b.col_stride != 1) {
    for (int64_t j = 0; j < N; j += kSliver)
      pack_columns(sliver(j), round_up(columns(j), kLane), b.from(0, j), panel.K, columns(j));
    return;
  }
  // Two rows at a time, which are interleaved, from end to end as they lie in memory. The part of a
  // row that a panel holds is too short for the CPU to see it coming.
  for (int64_t k = 0; k < round_up(panel.K, kInnerStep); k += 2) {
    if (k + kRowsAhead + 1 < panel.K)
      for (int64_t r = k + kRowsAhead; r < k + kRowsAhead + 2; ++r)
        prefetch(b.from(r, 0).data, N * element_bytes(b.dtype));
    for (int64_t j = 0; j < N; j += kSliver) {
      const int64_t width = round_up(columns(j), kLane);
      interleave_rows(sliver(j) + k * width, b.from(0, j), k, panel.K, columns(j), width);
    }
  }
}

namespace {

// What multiply_pairs has of its arguments in every block.
struct Product {
  float* c;
  int64_t ldc;
  const Panel& panel;
  int64_t N, K;
  bool accumulate;
  const Addend* plus;

  // Columns [k, k + n) of the product's inner size, rows [i, i + m) of c, of A `rows` of them.
  void multiply(const bf16* a, int64_t lda, int64_t part, int64_t parts, int64_t i, int64_t m,
                int64_t rows, int64_t k, int64_t n, int64_t j) const {
    const int64_t columns = std::min(kSliver, N - j), width = round_up(columns, kLane);
    const auto* b =
        reinterpret_cast<const bf16*>(panel.columns_from(j).data) + (panel.first + k) * width;
    PairBlock block = {c + i * ldc + j, ldc, a, lda, part, b, n, m, accumulate || k > 0};
    if (plus != nullptr && k + n >= K) {
      block.a2 = plus->a + i * plus->stride, block.lda2 = plus->stride;
      block.b2 = reinterpret_cast<const bf16*>(plus->panel.columns_from(j).data);
      block.K2 = round_up(plus->panel.K, kInnerStep);
    }
    multiply_block(block, columns, rows, parts);
  }
};

// A in three parts, a few rows at a time, whose block stays in the L1 cache while the panel's pass.
void multiply_split(const Product& p, const Operand& a, int64_t M, int64_t K, bf16* copy) {
  for (int64_t i = 0; i < M; i += kSplitRows)
    for (int64_t k0 = 0; k0 < K; k0 += kSplitColumns) {
      const int64_t m = std::min(kSplitRows, M - i), kn = std::min(kSplitColumns, K - k0),
                    padded = round_up(kn, kInnerStep), rows = m > kAmxRows ? kSplitRows : kAmxRows;
      split_rows(copy, a.from(i, k0), m, kn, padded);
      for (int64_t k = 0; k < padded; k += kSplitBlock)
        for (int64_t j = 0; j < p.N; j += kSliver)
          p.multiply(copy + k, 3 * padded, padded, 3, i, m, rows, k0 + k,
                     std::min(kSplitBlock, padded - k), j);
    }
}

// A as it is, or as a bf16 copy: a block of the panel stays in the L1 cache while all rows pass.
void multiply_whole(const Product& p, const Operand& a, int64_t M, int64_t K, bf16* copy) {
  const bool amx = bf16_products() == Bf16Products::Amx;
  const bool in_place = a.dtype == DType::BF16 && a.col_stride == 1 && K % kInnerStep == 0 &&
                        M % kAmxRows == 0;
  // Of equal length: a short last one would read and write all sums for little.
  const int64_t blocks = tile_count(K, kWholeBlock),
                block = round_up(tile_count(K, blocks), kInnerStep);
  for (int64_t k = 0; k < K; k += block) {
    const int64_t kn = std::min(block, K - k), padded = round_up(kn, kInnerStep);
    if (!in_place) copy_rows(copy, a.from(0, k), M, kn);
    const auto* from = in_place ? static_cast<const bf16*>(a.from(0, k).data) : copy;
    const int64_t lda = in_place ? a.row_stride : padded;
    for (int64_t j = 0; j < p.N; j += kSliver)
      for (int64_t i = 0; i < M;) {
        const int64_t rows = !amx ? kRows : M - i > kAmxRows ? 2 * kAmxRows : kAmxRows;
        p.multiply(from + i * lda, lda, 0, 1, i, std::min(rows, M - i), rows, k, padded, j);
        i += rows;
      }
  }
}

}  // namespace

void multiply_pairs(float* c, int64_t ldc, const Operand& a, const Panel& panel, int64_t M,
                    int64_t N, int64_t K, Write write, DType X, float* scratch,
                    const Addend* plus) {
  check(panel.first % kInnerStep == 0, "a panel of pairs used from row {}", panel.first);
  check(plus == nullptr || adds_in_registers(X), "a product in {} with an addend", name(X));
  const Product product = {c, ldc, panel, N, K, write == Write::Accumulate, plus};
  const TileRegisters registers(bf16_products() == Bf16Products::Amx);
  auto* copy = reinterpret_cast<bf16*>(scratch);
  if (X == DType::F32 && a.dtype != DType::BF16)
    multiply_split(product, a, M, K, copy);
  else
    multiply_whole(product, a, M, K, copy);
}

}  // namespace lema::cpu
