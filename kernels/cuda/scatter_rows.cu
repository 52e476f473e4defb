// Rows to named places, bit for bit.
#include "cuda/elementwise.cuh"
#include "cuda/elementwise.h"
#include "cuda/types.cuh"
#include "dispatch.h"

namespace lema::cuda {
namespace {

template <typename X>
struct Scatter {
  Rows<X> y, x;
  const int32_t* rows;
  template <int N>
  __device__ void run(int64_t n, int64_t c) const {
    *reinterpret_cast<Pack<X, N>*>(y.at(rows[n], c)) =
        *reinterpret_cast<const Pack<X, N>*>(x.at(n, c));
  }
};

}  // namespace

void scatter_rows(cudaStream_t stream, MatrixView y, MatrixView x, TensorView rows) {
  with_storage(x.dtype, [&]<typename X>(Type<X>) {
    for_elements<kPack<X>>(stream, "scatter_rows", x.rows, x.cols, is_packed(y) && is_packed(x),
                           Scatter<X>{y, x, static_cast<const int32_t*>(rows.data)});
  });
}

}  // namespace lema::cuda
