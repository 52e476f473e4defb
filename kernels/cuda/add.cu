// Sum of two matrices.
#include "cuda/elementwise.cuh"
#include "cuda/elementwise.h"
#include "cuda/types.cuh"
#include "dispatch.h"

namespace lema::cuda {
namespace {

template <typename X>
struct Add {
  Rows<X> y, a, b;
  template <int N>
  __device__ void run(int64_t n, int64_t c) const {
    Floats<N> sum = load<N>(a.at(n, c));
    const Floats<N> right = load<N>(b.at(n, c));
#pragma unroll
    for (int i = 0; i < N; ++i) sum[i] += right[i];
    store<N>(y.at(n, c), sum);
  }
};

}  // namespace

void add(cudaStream_t stream, MatrixView y, MatrixView a, MatrixView b) {
  with_storage(y.dtype, [&]<typename X>(Type<X>) {
    for_elements<kPack<X>>(stream, "add", y.rows, y.cols,
                           is_packed(y) && is_packed(a) && is_packed(b), Add<X>{y, a, b});
  });
}

}  // namespace lema::cuda
