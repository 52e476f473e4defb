// SwiGLU forward and backward, element-wise over gate and up.
#include "cuda/elementwise.cuh"
#include "cuda/elementwise.h"
#include "cuda/logistic.cuh"
#include "cuda/types.cuh"
#include "dispatch.h"

namespace lema::cuda {
namespace {

template <typename X>
struct Swiglu {
  Rows<X> y, gate_up;
  int64_t F;
  template <int N>
  __device__ void run(int64_t n, int64_t c) const {
    Floats<N> gate = load<N>(gate_up.at(n, c));
    const Floats<N> up = load<N>(gate_up.at(n, F + c));
#pragma unroll
    for (int i = 0; i < N; ++i) gate[i] = gate[i] * logistic(gate[i]).value * up[i];
    store<N>(y.at(n, c), gate);
  }
};

// silu = g s with s the logistic function of g; dsilu/dg = s + g s (1 - s).
template <typename X>
struct SwigluBackward {
  Rows<X> d_gate_up, dy, gate_up;
  int64_t F;
  template <int N>
  __device__ void run(int64_t n, int64_t c) const {
    const Floats<N> gate = load<N>(gate_up.at(n, c)), up = load<N>(gate_up.at(n, F + c)),
                    upstream = load<N>(dy.at(n, c));
    Floats<N> d_gate, d_up;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const Logistic s = logistic(gate[i]);
      d_gate[i] = upstream[i] * up[i] * (s.value * (1.0f + gate[i] * s.complement));
      d_up[i] = upstream[i] * (gate[i] * s.value);
    }
    store<N>(d_gate_up.at(n, c), d_gate);
    store<N>(d_gate_up.at(n, F + c), d_up);
  }
};

}  // namespace

void swiglu(cudaStream_t stream, MatrixView y, MatrixView gate_up) {
  with_storage(y.dtype, [&]<typename X>(Type<X>) {
    for_elements<kPack<X>>(stream, "swiglu", y.rows, y.cols,
                           is_packed(y) && is_packed(gate_up, y.cols),
                           Swiglu<X>{y, gate_up, y.cols});
  });
}

void swiglu_backward(cudaStream_t stream, MatrixView d_gate_up, MatrixView dy, MatrixView gate_up) {
  with_storage(dy.dtype, [&]<typename X>(Type<X>) {
    for_elements<kPack<X>>(
        stream, "swiglu_backward", dy.rows, dy.cols,
        is_packed(dy) && is_packed(gate_up, dy.cols) && is_packed(d_gate_up, dy.cols),
        SwigluBackward<X>{d_gate_up, dy, gate_up, dy.cols});
  });
}

}  // namespace lema::cuda
