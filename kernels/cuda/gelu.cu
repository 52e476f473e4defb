// GELU forward and backward. 0.5 (1 + tanh(u)) is the logistic function of 2u, which keeps full
// precision for large negative x, where the sum would cancel.
#include "cuda/elementwise.cuh"
#include "cuda/elementwise.h"
#include "cuda/logistic.cuh"
#include "cuda/types.cuh"
#include "dispatch.h"

namespace lema::cuda {
namespace {

constexpr float kTwoRootTwoOverPi = 1.5957691216057308f;  // 2 sqrt(2 / pi)
constexpr float kCubic = 0.044715f;

__device__ Logistic gate(float x) {
  return logistic(kTwoRootTwoOverPi * x * (1.0f + kCubic * x * x));
}

template <typename X>
struct Gelu {
  Rows<X> y, x;
  template <int N>
  __device__ void run(int64_t n, int64_t c) const {
    Floats<N> v = load<N>(x.at(n, c));
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] *= gate(v[i]).value;
    store<N>(y.at(n, c), v);
  }
};

// With s the logistic function of w = 2u: dy/dx = s + x s (1 - s) dw/dx.
template <typename X>
struct GeluBackward {
  Rows<X> dx, dy, x;
  template <int N>
  __device__ void run(int64_t n, int64_t c) const {
    const Floats<N> v = load<N>(x.at(n, c));
    Floats<N> d = load<N>(dy.at(n, c));
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const Logistic s = gate(v[i]);
      const float slope = kTwoRootTwoOverPi * (1.0f + 3 * kCubic * v[i] * v[i]);
      d[i] *= s.value * (1.0f + v[i] * s.complement * slope);
    }
    store<N>(dx.at(n, c), d);
  }
};

}  // namespace

void gelu(cudaStream_t stream, MatrixView y, MatrixView x) {
  with_storage(x.dtype, [&]<typename X>(Type<X>) {
    for_elements<kPack<X>>(stream, "gelu", x.rows, x.cols, is_packed(y) && is_packed(x),
                           Gelu<X>{y, x});
  });
}

void gelu_backward(cudaStream_t stream, MatrixView dx, MatrixView dy, MatrixView x) {
  with_storage(x.dtype, [&]<typename X>(Type<X>) {
    for_elements<kPack<X>>(stream, "gelu_backward", x.rows, x.cols,
                           is_packed(dx) && is_packed(dy) && is_packed(x),
                           GeluBackward<X>{dx, dy, x});
  });
}

}  // namespace lema::cuda
