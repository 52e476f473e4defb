// Rotary position embedding in place: a thread turns pairs (i, i + P/2) of one head.
#include "cuda/elementwise.cuh"
#include "cuda/elementwise.h"
#include "cuda/types.cuh"
#include "dispatch.h"

namespace lema::cuda {
namespace {

// Columns of the launch are the pairs of all heads, P/2 of each.
template <typename X>
struct Rope {
  Rows<X> x;
  const int32_t* positions;
  const float* table;
  int64_t head_size, half;
  float sign;  // -1 turns back
  template <int N>
  __device__ void run(int64_t n, int64_t pair) const {
    const int64_t head = pair / half, i = pair % half;
    const float* angles = table + positions[n] * 2 * half;
    const Floats<N> cosine = load<N>(angles + i), sine = load<N>(angles + half + i);
    X *first = x.at(n, head * head_size + i), *second = first + half;
    Floats<N> a = load<N>(first), b = load<N>(second);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const float s = sign * sine[k], turned = a[k] * cosine[k] - b[k] * s;
      b[k] = b[k] * cosine[k] + a[k] * s;
      a[k] = turned;
    }
    store<N>(first, a);
    store<N>(second, b);
  }
};

}  // namespace

void rope(cudaStream_t stream, MatrixView x, TensorView positions, TensorView table,
          int64_t head_size, bool inverse) {
  const int64_t half = table.shape[1] / 2;
  with_storage(x.dtype, [&]<typename X>(Type<X>) {
    constexpr int N = kPack<X>;
    const bool packed = half % N == 0 && is_packed(x, head_size) && is_packed(table, x.dtype);
    for_elements<N>(stream, "rope", x.rows, x.cols / head_size * half, packed,
                    Rope<X>{x, static_cast<const int32_t*>(positions.data), table.as<float>(),
                            head_size, half, inverse ? -1.0f : 1.0f});
  });
}

}  // namespace lema::cuda
