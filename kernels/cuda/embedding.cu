// Row lookup with conversion from the table's dtype to the activations'. The table may lie in
// page-locked host memory: rows then cross the bus in 16-byte accesses.
#include "cuda/elementwise.cuh"
#include "cuda/elementwise.h"
#include "cuda/types.cuh"
#include "dispatch.h"

namespace lema::cuda {
namespace {

template <typename X, typename G>
struct Embedding {
  Rows<X> y;
  const int32_t* ids;
  const G* table;
  int64_t C;
  Write write;
  template <int N>
  __device__ void run(int64_t n, int64_t c) const {
    store<N>(y.at(n, c), load<N>(table + int64_t{ids[n]} * C + c), write);
  }
};

}  // namespace

void embedding(cudaStream_t stream, MatrixView y, TensorView ids, TensorView table, Write write) {
  with_activation(y.dtype, [&]<typename X>(Type<X>) {
    with_weight(table.dtype, [&]<typename G>(Type<G>) {
      for_elements<kPack<X>>(
          stream, "embedding", y.rows, y.cols, is_packed(y) && is_packed(table, y.dtype),
          Embedding<X, G>{y, static_cast<const int32_t*>(ids.data), table.as<G>(), y.cols, write});
    });
  });
}

}  // namespace lema::cuda
