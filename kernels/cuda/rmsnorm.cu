// RMSNorm forward and backward: one pass for the sum, a second, out of the cache, for the result.
#include "cuda/norm.h"
#include "cuda/norm_launch.cuh"
#include "dispatch.h"

namespace lema::cuda {
namespace {

template <int kThreads, int N, typename X>
__device__ float reciprocal_rms(const X* x, int64_t C, float eps) {
  float squares = 0;
  for_columns<kThreads, N>(C, [&](int64_t c) {
    const Floats<N> v = load<N>(x + c);
#pragma unroll
    for (int i = 0; i < N; ++i) squares += v[i] * v[i];
  });
  return 1.0f / sqrtf(group_sum<kThreads>(squares) / static_cast<float>(C) + eps);
}

template <typename X, typename G>
struct Forward {
  Rows<X> y, x;
  const G* weight;
  int64_t C;
  float eps;
  template <int kThreads, int N>
  __device__ void run(int64_t n, int64_t begin) const {
    const X* in = x.at(n, begin);
    X* out = y.at(n, begin);
    const float rstd = reciprocal_rms<kThreads, N>(in, C, eps);
    for_columns<kThreads, N>(C, [&](int64_t c) {
      Floats<N> v = load<N>(in + c);
      const Floats<N> w = load<N>(weight + c);
#pragma unroll
      for (int i = 0; i < N; ++i) v[i] = rounded_to<X>(v[i] * rstd) * w[i];
      store<N>(out + c, v);
    });
  }
};

// With g = weight * dy: dx = rstd * g - x * rstd^3 / C * sum(g x).
template <typename X, typename G>
struct Backward {
  Rows<X> dx, dy, x;
  const G* weight;
  int64_t C;
  float eps;
  Write write;
  template <int kThreads, int N>
  __device__ void run(int64_t n, int64_t begin) const {
    const X *in = x.at(n, begin), *upstream = dy.at(n, begin);
    X* out = dx.at(n, begin);
    const float rstd = reciprocal_rms<kThreads, N>(in, C, eps);
    float dot = 0;
    for_columns<kThreads, N>(C, [&](int64_t c) {
      const Floats<N> v = load<N>(in + c), d = load<N>(upstream + c), w = load<N>(weight + c);
#pragma unroll
      for (int i = 0; i < N; ++i) dot += w[i] * d[i] * v[i];
    });
    const float along_x = rstd * rstd * rstd * group_sum<kThreads>(dot) / static_cast<float>(C);
    for_columns<kThreads, N>(C, [&](int64_t c) {
      const Floats<N> v = load<N>(in + c), d = load<N>(upstream + c), w = load<N>(weight + c);
      Floats<N> gradient;
#pragma unroll
      for (int i = 0; i < N; ++i) gradient[i] = rstd * (w[i] * d[i]) - along_x * v[i];
      store<N>(out + c, gradient, write);
    });
  }
};

}  // namespace

void rmsnorm(cudaStream_t stream, MatrixView y, MatrixView x, TensorView weight, float eps) {
  const int64_t C = weight.shape[0];
  with_storage(x.dtype, [&]<typename X>(Type<X>) {
    with_storage(weight.dtype, [&]<typename G>(Type<G>) {
      for_runs<kPack<X>>(stream, "rmsnorm", x.rows, x.cols / C,
                         is_packed(y, C) && is_packed(x, C) && is_packed(weight, x.dtype),
                         Forward<X, G>{y, x, weight.as<G>(), C, eps});
    });
  });
}

void rmsnorm_backward(cudaStream_t stream, MatrixView dx, MatrixView dy, MatrixView x,
                      TensorView weight, float eps, Write write) {
  const int64_t C = weight.shape[0];
  with_storage(x.dtype, [&]<typename X>(Type<X>) {
    with_storage(weight.dtype, [&]<typename G>(Type<G>) {
      for_runs<kPack<X>>(
          stream, "rmsnorm_backward", x.rows, x.cols / C,
          is_packed(dx, C) && is_packed(dy, C) && is_packed(x, C) && is_packed(weight, x.dtype),
          Backward<X, G>{dx, dy, x, weight.as<G>(), C, eps, write});
    });
  });
}

}  // namespace lema::cuda
