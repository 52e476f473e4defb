// Sums over the threads that share a row, in a fixed order, so that the same input gives the same
// bits.
#pragma once

namespace lema::cuda {

// Over the 32 lanes of a warp; every lane gets the sum.
__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

__device__ inline float warp_max(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2)
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}

// Over kThreads threads: a warp, or a whole block of 256. All of them call it.
template <int kThreads>
__device__ float group_sum(float x) {
  static_assert(kThreads == 32 || kThreads == 256);
  x = warp_sum(x);
  if constexpr (kThreads == 256) {
    __shared__ float parts[8];
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) x += parts[i];
    __syncthreads();
  }
  return x;
}

template <int kThreads>
__device__ float group_max(float x) {
  static_assert(kThreads == 32 || kThreads == 256);
  x = warp_max(x);
  if constexpr (kThreads == 256) {
    __shared__ float parts[8];
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    x = parts[0];
#pragma unroll
    for (int i = 1; i < 8; ++i) x = fmaxf(x, parts[i]);
    __syncthreads();
  }
  return x;
}

}  // namespace lema::cuda
