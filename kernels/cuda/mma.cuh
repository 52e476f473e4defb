// Tensor core products of 16 x 16 by 16 x 8 tiles of bf16 or f16 (mma.sync) and the moves that feed
// them: cp.async to shared memory, ldmatrix from it. sm_75 has neither bf16 nor cp.async: it takes
// f16 in two halves of the inner side, and ordinary copies. Used by attention.
//
// Tiles lie in shared memory by rows of D + 8 elements: an odd number of 16-byte units, so that the
// eight rows of an ldmatrix fall into different banks.
//
// In a fragment, with g = lane / 4 and t = lane % 4, a sum holds (row g, columns 2t, 2t + 1) in its
// first two registers and (row g + 8, the same columns) in its last two.
#pragma once

#include <type_traits>

#include "cuda/types.cuh"

namespace lema::cuda {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define LEMA_TURING 1
#else
#define LEMA_TURING 0
#endif
// Of the code that is compiled: each architecture has its own, and the host none.
inline constexpr bool kTuring = LEMA_TURING != 0;

template <int D>
inline constexpr int kPitch = D + 8;  // elements from row to row of a tile

__device__ inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Left operand: rows [0, 16) and columns [0, 16) from `tile`.
template <int D, typename X>
__device__ void load_left(uint32_t (&r)[4], const X* tile) {
  const int lane = threadIdx.x % 32;
  const uint32_t at = shared_address(tile + lane % 16 * kPitch<D> + lane / 16 * 8);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at));
}

// Right operand of two products, K = 16: rows [0, 16) of `tile` are the columns of the operand, its
// columns [0, 16) the inner side. r[0], r[1] for the first eight, r[2], r[3] for the others.
template <int D, typename X>
__device__ void load_right(uint32_t (&r)[4], const X* tile) {
  const int lane = threadIdx.x % 32;
  const uint32_t at =
      shared_address(tile + (lane % 8 + lane / 16 * 8) * kPitch<D> + lane / 8 % 2 * 8);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at));
}

// The same where rows [0, 16) of `tile` are the inner side and its columns [0, 16) the operand's.
template <int D, typename X>
__device__ void load_right_by_rows(uint32_t (&r)[4], const X* tile) {
  const int lane = threadIdx.x % 32;
  const uint32_t at = shared_address(tile + lane % 16 * kPitch<D> + lane / 16 * 8);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at));
}

// sum (16, 8) += a (16, 16) b (16, 8), both of X; of bf16 nothing on sm_75.
template <typename X>
__device__ void multiply_add(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if LEMA_TURING
  const auto add_half = [&](uint32_t a0, uint32_t a1, uint32_t b) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, "
                 "{%6}, {%0, %1, %2, %3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a0), "r"(a1), "r"(b));
  };
  if constexpr (std::is_same_v<X, f16>) {
    add_half(a[0], a[1], b0);
    add_half(a[2], a[3], b1);
  }
#else
#define LEMA_MMA(TYPE)                                                                            \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE ".f32 {%0, %1, %2, %3}, "   \
               "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                                    \
               : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])                           \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
  if constexpr (std::is_same_v<X, bf16>)
    LEMA_MMA("bf16");
  else
    LEMA_MMA("f16");
#undef LEMA_MMA
#endif
}

template <typename X>
__device__ uint32_t pack_pair(float low, float high) {
  return uint32_t{from_float<X>(low).bits} | uint32_t{from_float<X>(high).bits} << 16;
}

// Two sums side by side, (16, 16), as the left operand of the next product.
template <typename X>
__device__ void as_left(uint32_t (&r)[4], const float (&first)[4], const float (&second)[4]) {
  r[0] = pack_pair<X>(first[0], first[1]);
  r[1] = pack_pair<X>(first[2], first[3]);
  r[2] = pack_pair<X>(second[0], second[1]);
  r[3] = pack_pair<X>(second[2], second[3]);
}

// sums (16, 8 n) += left rows [0, 16) times right rows [0, 8 n) as columns, over D: scores.
template <int D, int n, typename X>
__device__ void multiply_rows(float (&sums)[n][4], const X* left, const X* right) {
#pragma unroll
  for (int d = 0; d < D; d += 16) {
    uint32_t a[4];
    load_left<D>(a, left + d);
#pragma unroll
    for (int j = 0; j < n; j += 2) {
      uint32_t b[4];
      load_right<D>(b, right + j * 8 * kPitch<D> + d);
      multiply_add<X>(sums[j], a, b[0], b[1]);
      multiply_add<X>(sums[j + 1], a, b[2], b[3]);
    }
  }
}

// out (16, 8 m) += weights (16, 8 n), rounded to X, times columns [0, 8 m) of `rows` (8 n).
template <int D, int n, int m, typename X>
__device__ void multiply_weights(float (&out)[m][4], const float (&weights)[n][4], const X* rows) {
#pragma unroll
  for (int j = 0; j < n; j += 2) {
    uint32_t a[4];
    as_left<X>(a, weights[j], weights[j + 1]);
#pragma unroll
    for (int c = 0; c < m; c += 2) {
      uint32_t b[4];
      load_right_by_rows<D>(b, rows + j * 8 * kPitch<D> + c * 8);
      multiply_add<X>(out[c], a, b[0], b[1]);
      multiply_add<X>(out[c + 1], a, b[2], b[3]);
    }
  }
}

__device__ inline void copy_16_bytes(void* shared, const void* global, bool valid) {
#if LEMA_TURING
  *static_cast<uint4*>(shared) = valid ? *static_cast<const uint4*>(global) : uint4{};
#else
  const int bytes = valid ? 16 : 0;  // the rest of the 16 becomes zero
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
               "l"(global), "r"(bytes));
#endif
}
__device__ inline void end_copy_group() {
#if !LEMA_TURING
  asm volatile("cp.async.commit_group;");
#endif
}
// All copy groups but the last `pending` are complete.
template <int pending>
__device__ void wait_copies() {
#if !LEMA_TURING
  asm volatile("cp.async.wait_group %0;" ::"n"(pending));
#endif
}

// tile (kRows, D) = rows [0, valid) from `from`, the other rows zero; by all kThreads threads. Rows
// that are not 16-byte aligned are copied element by element. Complete after wait_copies and a
// barrier.
template <int D, int kRows, int kThreads, typename X>
__device__ void copy_tile(X* tile, const X* from, int64_t stride, int valid, bool packed) {
  constexpr int kUnits = D / 8;
  for (int i = threadIdx.x; i < kRows * kUnits; i += kThreads) {
    const int row = i / kUnits, column = i % kUnits * 8;
    X* to = tile + row * kPitch<D> + column;
    const bool inside = row < valid;
    const X* source = from + (inside ? row : 0) * stride + column;
    if (packed) {
      copy_16_bytes(to, source, inside);
    } else {
#pragma unroll
      for (int e = 0; e < 8; ++e) to[e] = inside ? source[e] : X{0};
    }
  }
}

// Rows [0, valid) of `to` = factor[half] * sums (16, 8 m), half 0 for rows 0 to 7 and 1 for the
// others, by way of the warp's own 16 rows of shared memory.
template <int D, int m, typename X>
__device__ void store_tile(X* to, int64_t stride, int valid, bool packed,
                           const float (&sums)[m][4], const float (&factor)[2], X* staging) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  __syncwarp();
#pragma unroll
  for (int c = 0; c < m; ++c) {
    auto* low = reinterpret_cast<uint32_t*>(staging + g * kPitch<D> + c * 8 + 2 * t);
    auto* high = reinterpret_cast<uint32_t*>(staging + (g + 8) * kPitch<D> + c * 8 + 2 * t);
    *low = pack_pair<X>(sums[c][0] * factor[0], sums[c][1] * factor[0]);
    *high = pack_pair<X>(sums[c][2] * factor[1], sums[c][3] * factor[1]);
  }
  __syncwarp();
  for (int i = lane; i < 16 * m; i += 32) {
    const int row = i / m, column = i % m * 8;
    if (row >= valid) continue;
    const X* from = staging + row * kPitch<D> + column;
    X* out = to + row * stride + column;
    if (packed) {
      *reinterpret_cast<Pack<X, 8>*>(out) = *reinterpret_cast<const Pack<X, 8>*>(from);
    } else {
#pragma unroll
      for (int e = 0; e < 8; ++e) out[e] = from[e];
    }
  }
}

}  // namespace lema::cuda
