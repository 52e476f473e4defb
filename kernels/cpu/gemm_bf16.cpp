// bf16 kernels: AMX multiplies 16 x 32 by 32 x 16 in one instruction, 32 rows by 48 columns at a
// time; AVX512-BF16 adds products of pairs to 8 rows by 48 columns. Called by gemm.cpp.
#include "cpu/gemm_bf16.h"

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "core/error.h"
#include "cpu/convert.h"
#include "cpu/simd.h"
#include "cpu/transpose.h"

namespace lema::cpu {
namespace {

constexpr int64_t kTileSide = 16;  // rows of an AMX tile, and its 32-bit columns
constexpr int kRows = 8;           // rows of the AVX-512 kernel

bool amx_granted() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & (1u << 22)) == 0 ||
      (d & (1u << 24)) == 0)
    return false;
  constexpr long kRequestPermission = 0x1023,
                 kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

std::atomic<Bf16Products>& chosen() {
  static std::atomic<Bf16Products> products = widest_bf16_products();
  return products;
}

// c (m, 16 lanes) (=|+=) a (m, K) times a sliver, K a multiple of kInnerStep; rows of a are lda
// apart and readable up to the next multiple of 16.
struct Inner {
  float* c;
  int64_t ldc;
  const bf16* a;
  int64_t lda;
  const bf16* b;
  int64_t K, m;
  bool accumulate;
};

template <int kLanes>
[[gnu::target("avx512f,avx512bf16")]] void inner_avx512(const Inner& p) {
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

// Tiles 0-2 and 3-5 hold the sums of the upper and lower 16 rows, 6 rows of a, 7 a block of b. Full
// tiles only.
template <int kLanes, bool kLower>
[[gnu::target("amx-tile,amx-bf16")]] void inner_amx(const Inner& p) {
  const auto c_bytes = static_cast<size_t>(p.ldc) * sizeof(float),
             a_bytes = static_cast<size_t>(p.lda) * sizeof(bf16);
  constexpr size_t kBBytes = kLanes * 64;
  float* lower = p.c + kTileSide * p.ldc;
  _tile_zero(0);
  if constexpr (kLanes > 1) _tile_zero(1);
  if constexpr (kLanes > 2) _tile_zero(2);
  if constexpr (kLower) _tile_zero(3);
  if constexpr (kLower && kLanes > 1) _tile_zero(4);
  if constexpr (kLower && kLanes > 2) _tile_zero(5);
  if (p.accumulate) {
    _tile_loadd(0, p.c, c_bytes);
    if constexpr (kLanes > 1) _tile_loadd(1, p.c + 16, c_bytes);
    if constexpr (kLanes > 2) _tile_loadd(2, p.c + 32, c_bytes);
    if constexpr (kLower) _tile_loadd(3, lower, c_bytes);
    if constexpr (kLower && kLanes > 1) _tile_loadd(4, lower + 16, c_bytes);
    if constexpr (kLower && kLanes > 2) _tile_loadd(5, lower + 32, c_bytes);
  }
  for (int64_t k = 0; k < p.K; k += kInnerStep) {
    const bf16* b = p.b + k * 16 * kLanes;
    _tile_loadd(6, p.a + k, a_bytes);
    _tile_loadd(7, b, kBBytes);
    _tile_dpbf16ps(0, 6, 7);
    if constexpr (kLanes > 1) {
      _tile_loadd(7, b + 32, kBBytes);
      _tile_dpbf16ps(1, 6, 7);
    }
    if constexpr (kLanes > 2) {
      _tile_loadd(7, b + 64, kBBytes);
      _tile_dpbf16ps(2, 6, 7);
    }
    if constexpr (!kLower) continue;
    _tile_loadd(6, p.a + kTileSide * p.lda + k, a_bytes);
    _tile_loadd(7, b, kBBytes);
    _tile_dpbf16ps(3, 6, 7);
    if constexpr (kLanes > 1) {
      _tile_loadd(7, b + 32, kBBytes);
      _tile_dpbf16ps(4, 6, 7);
    }
    if constexpr (kLanes > 2) {
      _tile_loadd(7, b + 64, kBBytes);
      _tile_dpbf16ps(5, 6, 7);
    }
  }
  _tile_stored(0, p.c, c_bytes);
  if constexpr (kLanes > 1) _tile_stored(1, p.c + 16, c_bytes);
  if constexpr (kLanes > 2) _tile_stored(2, p.c + 32, c_bytes);
  if constexpr (kLower) _tile_stored(3, lower, c_bytes);
  if constexpr (kLower && kLanes > 1) _tile_stored(4, lower + 16, c_bytes);
  if constexpr (kLower && kLanes > 2) _tile_stored(5, lower + 32, c_bytes);
}

struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileShapes) == 64);
// Not a local variable: GCC's intrinsic does not say that it reads all of it.
constexpr TileShapes kTileShapes;

// The tile registers of this thread, all 16 rows of 64 bytes, for the lifetime of the object.
class TileRegisters {
 public:
  [[gnu::target("amx-tile")]] explicit TileRegisters(bool used) : used_(used) {
    if (used_) _tile_loadconfig(&kTileShapes);
  }
  [[gnu::target("amx-tile")]] ~TileRegisters() {
    if (used_) _tile_release();
  }
  TileRegisters(const TileRegisters&) = delete;

 private:
  bool used_;
};

using InnerKernel = void (*)(const Inner&);
// By rows: 8 (AVX-512), 16 or 32 (AMX); by lanes.
InnerKernel inner_kernel(int64_t rows, int64_t lanes) {
  static constexpr InnerKernel kAvx512[] = {inner_avx512<1>, inner_avx512<2>, inner_avx512<3>};
  static constexpr InnerKernel kAmx16[] = {inner_amx<1, false>, inner_amx<2, false>,
                                           inner_amx<3, false>};
  static constexpr InnerKernel kAmx32[] = {inner_amx<1, true>, inner_amx<2, true>,
                                           inner_amx<3, true>};
  return (rows == kRows ? kAvx512 : rows == kTileSide ? kAmx16 : kAmx32)[lanes - 1];
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

// Columns contiguous in memory: a pair is 32 bits that lie together, so pairs are transposed as f32
// are.
void pack_columns(bf16* sliver, int64_t width, const Operand& b, int64_t K, int64_t n) {
  constexpr int64_t kStep = 2 * kTransposeCols;
  float pairs[16][kTransposeCols] = {};
  for (int64_t j0 = 0; j0 < width; j0 += 16)
    for (int64_t k0 = 0; k0 < K; k0 += kStep) {
      const int64_t kn = std::min(kStep, K - k0);
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

// out[2 j] = even[j], out[2 j + 1] = odd[j]; n is rounded up to 8.
void interleave(bf16* out, const bf16* even, const bf16* odd, int64_t n) {
  for (int64_t j = 0; j < n; j += 8) {
    const __m128i e = _mm_loadu_si128(reinterpret_cast<const __m128i*>(even + j));
    const __m128i o = _mm_loadu_si128(reinterpret_cast<const __m128i*>(odd + j));
    auto* to = reinterpret_cast<__m128i*>(out + 2 * j);
    _mm_storeu_si128(to, _mm_unpacklo_epi16(e, o));
    _mm_storeu_si128(to + 1, _mm_unpackhi_epi16(e, o));
  }
}

// Rows k and k + 1 of m (K, n), n <= 64, interleaved and zero beyond m, up to `width` columns.
void interleave_rows(bf16* out, const Operand& m, int64_t k, int64_t K, int64_t n, int64_t width) {
  if (m.dtype == DType::BF16 && n == width && n % 8 == 0 && k + 1 < K)
    return interleave(out, static_cast<const bf16*>(m.from(k, 0).data),
                      static_cast<const bf16*>(m.from(k + 1, 0).data), n);
  bf16 rows[2][kTransposeCols] = {};
  for (int64_t i = 0; i < 2 && k + i < K; ++i)
    narrow_operand(rows[i], m.from(k + i, 0).data, m.dtype, n);
  interleave(out, rows[0], rows[1], width);
}

// Rows contiguous in memory: two rows are interleaved.
void pack_rows(bf16* sliver, int64_t width, const Operand& b, int64_t K, int64_t n) {
  for (int64_t k = 0; k < round_up(K, kInnerStep); k += 2)
    interleave_rows(sliver + k * width, b, k, K, n, width);
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

// One block of rows against one sliver; `n` of its columns and m of the kernel's rows exist in c.
void multiply_block(const Inner& p, int64_t n, int64_t rows) {
  const int64_t width = round_up(n, kLane);
  const InnerKernel inner = inner_kernel(rows, width / kLane);
  if (n == width && (p.m == rows || rows == kRows)) return inner(p);
  float edge[2 * kTileSide * kSliver];
  for (int64_t r = 0; p.accumulate && r < p.m; ++r)
    std::copy_n(p.c + r * p.ldc, n, edge + r * width);
  Inner q = p;
  q.c = edge, q.ldc = width;
  inner(q);
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

void pack_panel_bf16(const Panel& panel, const Operand& b, int64_t N) {
  for (int64_t j = 0; j < N; j += kSliver) {
    const int64_t n = std::min(kSliver, N - j), width = round_up(n, kLane);
    auto* sliver = reinterpret_cast<bf16*>(panel.columns_from(j).data);
    if (b.col_stride == 1)
      pack_rows(sliver, width, b.from(0, j), panel.K, n);
    else
      pack_columns(sliver, width, b.from(0, j), panel.K, n);
  }
}

void multiply_bf16(float* c, int64_t ldc, const Operand& a, const Panel& panel, int64_t M,
                   int64_t N, int64_t K, Write write, float* scratch) {
  check(panel.first % kInnerStep == 0, "a bf16 panel used from row {}", panel.first);
  const bool amx = bf16_products() == Bf16Products::Amx;
  const bool in_place =
      a.dtype == DType::BF16 && a.col_stride == 1 && K % kInnerStep == 0 && M % kTileSide == 0;
  const int64_t block =
      in_place ? K : kMultiplyScratch * 2 / kTileRows;  // two bf16 in each float of scratch
  const TileRegisters registers(amx);
  for (int64_t k0 = 0; k0 < K; k0 += block) {
    const int64_t kn = std::min(block, K - k0), padded = round_up(kn, kInnerStep);
    auto* copy = reinterpret_cast<bf16*>(scratch);
    if (!in_place) copy_rows(copy, a.from(0, k0), M, kn);
    const auto* rows = in_place ? static_cast<const bf16*>(a.from(0, k0).data) : copy;
    const int64_t lda = in_place ? a.row_stride : padded;
    for (int64_t j = 0; j < N; j += kSliver) {
      const int64_t n = std::min(kSliver, N - j), width = round_up(n, kLane);
      const auto* b =
          reinterpret_cast<const bf16*>(panel.columns_from(j).data) + (panel.first + k0) * width;
      for (int64_t i = 0; i < M;) {
        const int64_t step = !amx ? kRows : M - i > kTileSide ? 2 * kTileSide : kTileSide;
        const bool accumulate = k0 > 0 || write == Write::Accumulate;
        multiply_block({c + i * ldc + j, ldc, rows + i * lda, lda, b, padded, std::min(step, M - i),
                        accumulate},
                       n, step);
        i += step;
      }
    }
  }
}

}  // namespace lema::cpu
