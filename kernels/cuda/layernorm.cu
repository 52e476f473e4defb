// LayerNorm forward and backward. The variance is taken about the mean, in a second pass over the
// row in the cache: the difference of squares would cancel.
#include "cuda/norm.h"
#include "cuda/norm_launch.cuh"
#include "dispatch.h"

namespace lema::cuda {
namespace {

struct Moments {
  float mean, rstd;
};

template <int kThreads, int N, typename X>
__device__ Moments moments(const X* x, int64_t C, float eps) {
  const auto count = static_cast<float>(C);
  float sum = 0;
  for_columns<kThreads, N>(C, [&](int64_t c) {
    const Floats<N> v = load<N>(x + c);
#pragma unroll
    for (int i = 0; i < N; ++i) sum += v[i];
  });
  const float mean = group_sum<kThreads>(sum) / count;
  float squares = 0;
  for_columns<kThreads, N>(C, [&](int64_t c) {
    const Floats<N> v = load<N>(x + c);
#pragma unroll
    for (int i = 0; i < N; ++i) squares += (v[i] - mean) * (v[i] - mean);
  });
  return {mean, 1.0f / sqrtf(group_sum<kThreads>(squares) / count + eps)};
}

template <typename X, typename G>
struct Forward {
  Rows<X> y, x;
  const G* weight;
  AnyVector bias;  // typed at run time: a third of the kernels to compile
  int64_t C;
  float eps;
  template <int kThreads, int N>
  __device__ void run(int64_t n, int64_t) const {
    const X* in = x.at(n, 0);
    X* out = y.at(n, 0);
    const Moments m = moments<kThreads, N>(in, C, eps);
    for_columns<kThreads, N>(C, [&](int64_t c) {
      Floats<N> v = load<N>(in + c);
      const Floats<N> w = load<N>(weight + c), b = bias.at<N>(c);
#pragma unroll
      for (int i = 0; i < N; ++i) v[i] = (v[i] - m.mean) * m.rstd * w[i] + b[i];
      store<N>(out + c, v);
    });
  }
};

// With g = weight * dy and h = (x - mean) * rstd: dx = rstd * (g - mean(g) - h * mean(g h)).
template <typename X, typename G>
struct Backward {
  Rows<X> dx, dy, x;
  const G* weight;
  int64_t C;
  float eps;
  Write write;
  template <int kThreads, int N>
  __device__ void run(int64_t n, int64_t) const {
    const X *in = x.at(n, 0), *upstream = dy.at(n, 0);
    X* out = dx.at(n, 0);
    const Moments m = moments<kThreads, N>(in, C, eps);
    const auto count = static_cast<float>(C);
    float sum_g = 0, sum_gh = 0;
    for_columns<kThreads, N>(C, [&](int64_t c) {
      const Floats<N> v = load<N>(in + c), d = load<N>(upstream + c), w = load<N>(weight + c);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const float g = w[i] * d[i];
        sum_g += g;
        sum_gh += g * ((v[i] - m.mean) * m.rstd);
      }
    });
    const float mean_g = group_sum<kThreads>(sum_g) / count;
    const float mean_gh = group_sum<kThreads>(sum_gh) / count;
    for_columns<kThreads, N>(C, [&](int64_t c) {
      const Floats<N> v = load<N>(in + c), d = load<N>(upstream + c), w = load<N>(weight + c);
      Floats<N> gradient;
#pragma unroll
      for (int i = 0; i < N; ++i)
        gradient[i] = m.rstd * (w[i] * d[i] - mean_g - (v[i] - m.mean) * m.rstd * mean_gh);
      store<N>(out + c, gradient, write);
    });
  }
};

}  // namespace

void layernorm(cudaStream_t stream, MatrixView y, MatrixView x, TensorView weight, TensorView bias,
               float eps) {
  with_storage(x.dtype, [&]<typename X>(Type<X>) {
    with_storage(weight.dtype, [&]<typename G>(Type<G>) {
      for_runs<kPack<X>>(
          stream, "layernorm", x.rows, 1,
          is_packed(y) && is_packed(x) && is_packed(weight, x.dtype) && is_packed(bias, x.dtype),
          Forward<X, G>{y, x, weight.as<G>(), bias, x.cols, eps});
    });
  });
}

void layernorm_backward(cudaStream_t stream, MatrixView dx, MatrixView dy, MatrixView x,
                        TensorView weight, float eps, Write write) {
  with_storage(x.dtype, [&]<typename X>(Type<X>) {
    with_storage(weight.dtype, [&]<typename G>(Type<G>) {
      for_runs<kPack<X>>(
          stream, "layernorm_backward", x.rows, 1,
          is_packed(dx) && is_packed(dy) && is_packed(x) && is_packed(weight, x.dtype),
          Backward<X, G>{dx, dy, x, weight.as<G>(), x.cols, eps, write});
    });
  });
}

}  // namespace lema::cuda
