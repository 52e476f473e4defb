// Lengths of the rows or columns of a matrix, a block each.
#include "cuda/check.h"
#include "cuda/lora_norm.h"
#include "cuda/reduce.cuh"
#include "cuda/types.cuh"

namespace lema::cuda {
namespace {

// norm[i] = |x[i * outer + j * inner]| over j in [0, n).
__global__ void __launch_bounds__(256)
    vector_length(float* norm, const float* x, int64_t outer, int64_t inner, int64_t n) {
  const float* row = x + int64_t{blockIdx.x} * outer;
  float squares = 0;
  for (int64_t j = threadIdx.x; j < n; j += 256) squares += row[j * inner] * row[j * inner];
  squares = group_sum<256>(squares);
  if (threadIdx.x == 0) norm[blockIdx.x] = sqrtf(squares);
}

}  // namespace

void lengths(cudaStream_t stream, float* norm, MatrixView x, bool columns) {
  const auto* data = static_cast<const float*>(x.data);
  if (columns)
    vector_length<<<static_cast<unsigned>(x.cols), 256, 0, stream>>>(norm, data, 1, x.stride,
                                                                     x.rows);
  else
    vector_length<<<static_cast<unsigned>(x.rows), 256, 0, stream>>>(norm, data, x.stride, 1,
                                                                     x.cols);
  check_launch("vector_length");
}

}  // namespace lema::cuda
