// One launcher for everything that treats the elements of a matrix alike: f.run<N>(row, col) for
// each N columns, N elements of a 16-byte access where all operands allow it, else 1.
#pragma once

#include <algorithm>

#include "cuda/check.h"

namespace lema::cuda {

// Four blocks at a time: aiming at more, ptxas spills registers of AdamW on sm_90a.
template <int N, typename F>
__global__ void __launch_bounds__(256, 4) each_pack(int64_t rows, int64_t packs, F f) {
  const int64_t pack = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (pack >= packs) return;
  const int64_t step = int64_t{gridDim.y} * blockDim.y;
  for (int64_t row = int64_t{blockIdx.y} * blockDim.y + threadIdx.y; row < rows; row += step)
    f.template run<N>(row, pack * N);
}

template <int N, typename F>
void launch_packs(cudaStream_t stream, const char* name, int64_t rows, int64_t cols, const F& f) {
  const int64_t packs = cols / N;
  if (rows == 0 || packs == 0) return;
  unsigned width = 1;
  while (width < 256 && width < packs) width *= 2;
  const dim3 threads(width, 256 / width);
  const dim3 blocks(
      static_cast<unsigned>((packs + width - 1) / width),
      static_cast<unsigned>(std::min<int64_t>((rows + threads.y - 1) / threads.y, 65535)));
  each_pack<N><<<blocks, threads, 0, stream>>>(rows, packs, f);
  check_launch(name);
}

// `packed`: every N-th column of every operand is aligned for one access.
template <int N, typename F>
void for_elements(cudaStream_t stream, const char* name, int64_t rows, int64_t cols, bool packed,
                  const F& f) {
  if (packed && cols % N == 0)
    launch_packs<N>(stream, name, rows, cols, f);
  else
    launch_packs<1>(stream, name, rows, cols, f);
}

}  // namespace lema::cuda
