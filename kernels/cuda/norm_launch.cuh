// The launch of a kernel that treats each run of C columns on its own: a warp for a short run, a
// block of 256 threads for a long one. Shared by rmsnorm.cu and layernorm.cu.
#pragma once

#include "cuda/check.h"
#include "cuda/reduce.cuh"
#include "cuda/types.cuh"

namespace lema::cuda {

// The N columns from c on, for all c of this thread: visit(c). Few as a rule: copies of the loop's
// body would not be entered, and take registers.
template <int kThreads, int N, typename Visit>
__device__ void for_columns(int64_t C, const Visit& visit) {
#pragma unroll 1
  for (int64_t c = (threadIdx.x % kThreads) * N; c < C; c += kThreads * N) visit(c);
}

// F::run<kThreads, N>(row, first column of the run).
template <int kThreads, int N, typename F>
__global__ void __launch_bounds__(256) each_run(int64_t runs, int64_t runs_per_row, F f) {
  const int64_t i = int64_t{blockIdx.x} * (256 / kThreads) + threadIdx.x / kThreads;
  if (i >= runs) return;  // whole warps or blocks leave: those that share a run stay together
  f.template run<kThreads, N>(i / runs_per_row, i % runs_per_row * f.C);
}

template <int N, typename F>
void launch_runs(cudaStream_t stream, const char* name, int64_t rows, int64_t runs_per_row,
                 const F& f) {
  const int64_t runs = rows * runs_per_row;
  if (runs == 0) return;
  if (f.C <= 1024)
    each_run<32, N>
        <<<static_cast<unsigned>((runs + 7) / 8), 256, 0, stream>>>(runs, runs_per_row, f);
  else
    each_run<256, N><<<static_cast<unsigned>(runs), 256, 0, stream>>>(runs, runs_per_row, f);
  check_launch(name);
}

// `packed`: every N-th column of every operand is aligned for one access.
template <int N, typename F>
void for_runs(cudaStream_t stream, const char* name, int64_t rows, int64_t runs_per_row,
              bool packed, const F& f) {
  if (packed)
    launch_runs<N>(stream, name, rows, runs_per_row, f);
  else
    launch_runs<1>(stream, name, rows, runs_per_row, f);
}

}  // namespace lema::cuda
