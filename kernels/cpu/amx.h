// AMX: a unit that multiplies 16 x 32 by 32 x 16 bf16 numbers in one instruction and sums in f32.
// Called by gemm_bf16.cpp and matvec_pairs.cpp.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "core/dtype.h"

namespace lema::cpu {

inline constexpr int64_t kAmxRows = 16;  // of a tile, and its 32-bit columns

// Whether CPU and operating system grant it; asking makes Linux grant it to this process.
bool amx_granted();

// c (m, 16 lanes) (=|+=) A (m, K) times a sliver of a panel of pairs (gemm_bf16.h), then += A2
// (m, K2) times a sliver of another. K and K2 are multiples of 32; rows of A are lda apart and
// readable up to the next multiple of 16, as those of A2.
struct PairBlock {
  float* c;
  int64_t ldc;
  const bf16* a;
  int64_t lda;
  int64_t part;  // A is a sum of matrices, each `part` elements after the one before
  const bf16* b;
  int64_t K, m;
  bool accumulate;
  // The second product, where K2 is not 0.
  const bf16* a2 = nullptr;
  int64_t lda2 = 0;
  const bf16* b2 = nullptr;
  int64_t K2 = 0;
};
using PairKernel = void (*)(const PairBlock&);
// For m = rows, 16 or 32, and 1 or 3 parts of A.
PairKernel amx_kernel(int64_t rows, int64_t lanes, int64_t parts);

// The tile registers of this thread, all 16 rows of 64 bytes, for the lifetime of the object; used:
// false makes it do nothing.
class TileRegisters {
 public:
  [[gnu::target("amx-tile")]] explicit TileRegisters(bool used);
  [[gnu::target("amx-tile")]] ~TileRegisters();
  TileRegisters(const TileRegisters&) = delete;

 private:
  bool used_;
};

}  // namespace lema::cpu
