// AdamW in one pass over parameter, gradient and moments; the squared norm in fixed parts. Ref:
// arXiv:1711.05101.
#include <cmath>

#include "cuda/adamw.h"
#include "cuda/elementwise.cuh"
#include "cuda/types.cuh"

namespace lema::cuda {
namespace {

struct Update {
  float *param, *moment1, *moment2;
  const float *grad, *squared_norm;
  float grad_scale, clip, beta1, beta2, eps, decay, rate, correction2;

  // What the gradient is multiplied by.
  __device__ float scale() const {
    if (clip <= 0) return grad_scale;
    const float norm = grad_scale * sqrtf(*squared_norm);
    if (isnan(norm)) return norm;  // fminf() would hide it
    return grad_scale * fminf(1.0f, clip / (norm + 1e-6f));
  }

  template <int N>
  __device__ void run(int64_t, int64_t i) const {
    const float factor = scale();
    const Floats<N> g = load<N>(grad + i);
    Floats<N> p = load<N>(param + i), m1 = load<N>(moment1 + i), m2 = load<N>(moment2 + i);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const float gradient = g[k] * factor;
      m1[k] = m1[k] * beta1 + gradient * (1 - beta1);
      m2[k] = m2[k] * beta2 + gradient * gradient * (1 - beta2);
      p[k] = p[k] * decay - rate * (m1[k] / (sqrtf(m2[k]) / correction2 + eps));
    }
    store<N>(moment1 + i, m1);
    store<N>(moment2 + i, m2);
    store<N>(param + i, p);
  }
};

// Over a block of 256, in a fixed order; for its first thread.
__device__ double block_sum(double x) {
  __shared__ double sums[256];
  sums[threadIdx.x] = x;
  __syncthreads();
  for (int half = 128; half > 0; half /= 2) {
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    __syncthreads();
  }
  return sums[0];
}

// parts[block] = sum of x^2 over every gridDim.x-th group of 256 N elements, in double.
template <int N>
__global__ void __launch_bounds__(256) partial_squares(double* parts, const float* x, int64_t n) {
  double total = 0;
  const int64_t step = int64_t{gridDim.x} * 256 * N;
  for (int64_t i = (int64_t{blockIdx.x} * 256 + threadIdx.x) * N; i < n; i += step) {
    const Floats<N> values = load<N>(x + i);
#pragma unroll
    for (int k = 0; k < N; ++k)
      total += static_cast<double>(values[k]) * static_cast<double>(values[k]);
  }
  const double sum = block_sum(total);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(256) sum_parts(float* out, const double* parts) {
  double total = 0;
  for (int64_t i = threadIdx.x; i < kNormParts; i += 256) total += parts[i];
  const double sum = block_sum(total);
  if (threadIdx.x == 0) *out = static_cast<float>(sum);
}

}  // namespace

void adamw(cudaStream_t stream, TensorView param, TensorView grad, TensorView moment1,
           TensorView moment2, TensorView squared_norm, const AdamWStep& step) {
  const auto t = static_cast<double>(step.step);
  const auto correction1 = static_cast<float>(1 - std::pow(static_cast<double>(step.beta1), t));
  const auto correction2 =
      static_cast<float>(std::sqrt(1 - std::pow(static_cast<double>(step.beta2), t)));
  const Update update = {param.as<float>(),
                         moment1.as<float>(),
                         moment2.as<float>(),
                         grad.as<float>(),
                         squared_norm.as<float>(),
                         step.grad_scale,
                         step.clip,
                         step.beta1,
                         step.beta2,
                         step.eps,
                         1 - step.lr * step.weight_decay,
                         step.lr / correction1,
                         correction2};
  bool packed = true;
  for (const TensorView* view : {&param, &grad, &moment1, &moment2})
    packed = packed && is_packed(*view, DType::F32);
  for_elements<4>(stream, "adamw", 1, param.elements(), packed, update);
}

void squared_norm(cudaStream_t stream, TensorView out, TensorView x, double* parts) {
  const int64_t n = x.elements();
  if (is_packed(x, DType::F32) && n % 4 == 0)
    partial_squares<4><<<kNormParts, 256, 0, stream>>>(parts, x.as<float>(), n);
  else
    partial_squares<1><<<kNormParts, 256, 0, stream>>>(parts, x.as<float>(), n);
  check_launch("partial_squares");
  sum_parts<<<1, 256, 0, stream>>>(out.as<float>(), parts);
  check_launch("sum_parts");
}

}  // namespace lema::cuda
