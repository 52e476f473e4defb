// Up to 32 rows by 48 columns of sums stay in six of the eight tile registers.
#include "cpu/amx.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace lema::cpu {
namespace {

// Tiles 0-2 and 3-5 hold the sums of the upper and lower 16 rows, 6 rows of A, 7 a block of b. Full
// tiles only.
template <int kLanes, bool kLower>
[[gnu::target("amx-tile"), gnu::always_inline]] inline void load_sums(const PairBlock& p) {
  const auto bytes = static_cast<size_t>(p.ldc) * sizeof(float);
  const float* lower = p.c + kAmxRows * p.ldc;
  _tile_loadd(0, p.c, bytes);
  if constexpr (kLanes > 1) _tile_loadd(1, p.c + 16, bytes);
  if constexpr (kLanes > 2) _tile_loadd(2, p.c + 32, bytes);
  if constexpr (kLower) _tile_loadd(3, lower, bytes);
  if constexpr (kLower && kLanes > 1) _tile_loadd(4, lower + 16, bytes);
  if constexpr (kLower && kLanes > 2) _tile_loadd(5, lower + 32, bytes);
}

[[gnu::target("amx-tile"), gnu::always_inline]] inline void zero_sums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
}

template <int kLanes, bool kLower>
[[gnu::target("amx-tile"), gnu::always_inline]] inline void store_sums(const PairBlock& p) {
  const auto bytes = static_cast<size_t>(p.ldc) * sizeof(float);
  float* lower = p.c + kAmxRows * p.ldc;
  _tile_stored(0, p.c, bytes);
  if constexpr (kLanes > 1) _tile_stored(1, p.c + 16, bytes);
  if constexpr (kLanes > 2) _tile_stored(2, p.c + 32, bytes);
  if constexpr (kLower) _tile_stored(3, lower, bytes);
  if constexpr (kLower && kLanes > 1) _tile_stored(4, lower + 16, bytes);
  if constexpr (kLower && kLanes > 2) _tile_stored(5, lower + 32, bytes);
}

// 32 columns of A. The lower rows meet the blocks of b in the other order: their first is in the
// register already.
template <int kLanes, bool kLower>
[[gnu::target("amx-tile,amx-bf16"), gnu::always_inline]] inline void add_products(const bf16* a,
                                                                                  size_t a_bytes,
                                                                                  const bf16* b) {
  constexpr size_t kBBytes = kLanes * 64;
  _tile_loadd(6, a, a_bytes);
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
  if constexpr (!kLower) return;
  _tile_loadd(6, a + kAmxRows * static_cast<int64_t>(a_bytes / sizeof(bf16)), a_bytes);
  if constexpr (kLanes == 1) _tile_dpbf16ps(3, 6, 7);
  if constexpr (kLanes == 2) _tile_dpbf16ps(4, 6, 7);
  if constexpr (kLanes > 2) {
    _tile_dpbf16ps(5, 6, 7);
    _tile_loadd(7, b + 32, kBBytes);
    _tile_dpbf16ps(4, 6, 7);
  }
  if constexpr (kLanes > 1) {
    _tile_loadd(7, b, kBBytes);
    _tile_dpbf16ps(3, 6, 7);
  }
}

template <int kLanes, bool kLower, int kParts>
[[gnu::target("amx-tile,amx-bf16")]] void multiply_block(const PairBlock& p) {
  const auto a_bytes = static_cast<size_t>(p.lda) * sizeof(bf16);
  if (p.accumulate)
    load_sums<kLanes, kLower>(p);
  else
    zero_sums();
  for (int64_t k = 0; k < p.K; k += 32)
#pragma GCC unroll 3
    for (int part = 0; part < kParts; ++part)
      add_products<kLanes, kLower>(p.a + part * p.part + k, a_bytes, p.b + k * 16 * kLanes);
  for (int64_t k = 0; k < p.K2; k += 32)
    add_products<kLanes, kLower>(p.a2 + k, static_cast<size_t>(p.lda2) * sizeof(bf16),
                                 p.b2 + k * 16 * kLanes);
  store_sums<kLanes, kLower>(p);
}

struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileShapes) == 64);
// Not a local variable: GCC's intrinsic does not say that it reads all of it.
constexpr TileShapes kTileShapes;

}  // namespace

bool amx_granted() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & (1u << 22)) == 0 ||
      (d & (1u << 24)) == 0)
    return false;
  constexpr long kRequestPermission = 0x1023,
                 kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

PairKernel amx_kernel(int64_t rows, int64_t lanes, int64_t parts) {
  static constexpr PairKernel kKernels[2][2][3] = {
      {{multiply_block<1, false, 1>, multiply_block<2, false, 1>, multiply_block<3, false, 1>},
       {multiply_block<1, true, 1>, multiply_block<2, true, 1>, multiply_block<3, true, 1>}},
      {{multiply_block<1, false, 3>, multiply_block<2, false, 3>, multiply_block<3, false, 3>},
       {multiply_block<1, true, 3>, multiply_block<2, true, 3>, multiply_block<3, true, 3>}}};
  return kKernels[parts > 1][rows > kAmxRows][lanes - 1];
}

TileRegisters::TileRegisters(bool used) : used_(used) {
  if (used_) _tile_loadconfig(&kTileShapes);
}
TileRegisters::~TileRegisters() {
  if (used_) _tile_release();
}

}  // namespace lema::cpu
