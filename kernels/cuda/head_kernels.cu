// The row-wise half of the linear cross-entropy: online softmax over chunks of logits with the
// running maximum, the last step from the sums to loss and gradient, and the logits' own gradient.
#include <cmath>

#include "cuda/elementwise.cuh"
#include "cuda/elementwise.h"
#include "cuda/head.h"
#include "cuda/reduce.cuh"
#include "cuda/types.cuh"
#include "dispatch.h"

namespace lema::cuda {
namespace {

struct State {
  float *max, *sum, *target_logit, *acc;
  int64_t C;  // width of acc
  explicit State(const HeadState& s)
      : max(s.max.as<float>()),
        sum(s.sum.as<float>()),
        target_logit(s.target_logit.as<float>()),
        acc(s.acc.as<float>()),
        C(s.acc ? s.acc.shape[1] : 0) {}
};

// A block of 256 threads takes one row.
template <typename X>
__global__ void __launch_bounds__(256)
    softmax_row(State state, Rows<X> p, Rows<float> logits, int64_t cols, int64_t v_begin,
                const int32_t* targets, float scale) {
  const int64_t n = blockIdx.x;
  const float* row = logits.at(n, 0);
  X* out = p.at(n, 0);
  float largest = -INFINITY;
  for (int64_t c = threadIdx.x; c < cols; c += 256) largest = fmaxf(largest, row[c]);
  const float before = state.max[n];
  const float max = fmaxf(before, group_max<256>(largest));
  const int64_t target = targets[n] - v_begin;
  if (threadIdx.x == 0 && target >= 0 && target < cols) state.target_logit[n] = row[target];
  __syncthreads();  // p may take the place of the logits
  float total = 0;
  for (int64_t c = threadIdx.x; c < cols; c += 256) {
    const float e = c == target ? 0.0f : expf(row[c] - max);
    total += e;
    out[c] = from_float<X>(scale * e);
  }
  total = group_sum<256>(total);
  const float rescale = expf(before - max);
  if (threadIdx.x == 0) {
    state.max[n] = max;
    state.sum[n] = state.sum[n] * rescale + total;
  }
  if (state.acc == nullptr || rescale == 1.0f) return;
  for (int64_t c = threadIdx.x; c < state.C; c += 256) state.acc[n * state.C + c] *= rescale;
}

template <typename X, typename G>
struct CopyTarget {
  X* target_rows;
  const G* weight;
  const int32_t* targets;
  int64_t v_begin, V, C;
  template <int N>
  __device__ void run(int64_t n, int64_t c) const {
    const int64_t v = targets[n] - v_begin;
    if (v >= 0 && v < V) store<N>(target_rows + n * C + c, load<N>(weight + v * C + c));
  }
};

struct Begin {
  float *max, *sum, *target_logit;
  template <int N>
  __device__ void run(int64_t, int64_t n) const {
    max[n] = -INFINITY;
    sum[n] = target_logit[n] = 0;
  }
};

// -log of the target's share; log1p where that is near 1, so that a small loss keeps its digits.
struct Loss {
  float* loss;
  const float *max, *sum, *target_logit;
  template <int N>
  __device__ void run(int64_t, int64_t n) const {
    const float target = expf(target_logit[n] - max[n]), others = sum[n];
    loss[n] = others < target ? log1pf(others / target)
                              : logf(others + target) + (max[n] - target_logit[n]);
  }
};

template <typename X>
struct Gradient {
  Rows<X> dx;
  const float *acc, *max, *sum, *target_logit;
  const X* target_rows;
  int64_t C;
  float grad_scale;
  template <int N>
  __device__ void run(int64_t n, int64_t c) const {
    const float others = sum[n];
    const float scale = grad_scale / (others + expf(target_logit[n] - max[n]));
    Floats<N> a = load<N>(acc + n * C + c);
    const Floats<N> target = load<N>(target_rows + n * C + c);
#pragma unroll
    for (int i = 0; i < N; ++i) a[i] = scale * (a[i] - others * target[i]);
    store<N>(dx.at(n, c), a);
  }
};

// p - 1 of the target is -(sum of the others) / (sum of all): no digit is lost where p is near 1.
template <typename X>
struct LogitGradient {
  Rows<X> p;
  Rows<float> logits;
  const float *max, *sum, *target_logit;
  const int32_t* targets;
  int64_t v_begin;
  float unit;
  template <int N>
  __device__ void run(int64_t n, int64_t c) const {
    const float largest = max[n], others = sum[n];
    const float scale = unit / (others + expf(target_logit[n] - largest));
    const int64_t target = targets[n] - v_begin - c;
    Floats<N> g = load<N>(logits.at(n, c));
#pragma unroll
    for (int i = 0; i < N; ++i) g[i] = scale * (i == target ? -others : expf(g[i] - largest));
    store<N>(p.at(n, c), g);
  }
};

}  // namespace

void softmax_chunk(cudaStream_t stream, const HeadState& state, MatrixView p, MatrixView logits,
                   int64_t v_begin, TensorView targets) {
  if (logits.rows == 0) return;
  with_storage(p.dtype, [&]<typename X>(Type<X>) {
    softmax_row<X><<<static_cast<unsigned>(logits.rows), 256, 0, stream>>>(
        State(state), p, logits, logits.cols, v_begin, static_cast<const int32_t*>(targets.data),
        unit(p.dtype));
    check_launch("softmax_row");
  });
}

void logit_gradients(cudaStream_t stream, const HeadState& state, MatrixView p, MatrixView logits,
                     int64_t v_begin, TensorView targets) {
  const State s(state);
  with_storage(p.dtype, [&]<typename X>(Type<X>) {
    for_elements<kPack<X>>(
        stream, "logit_gradients", p.rows, p.cols, is_packed(p) && is_packed(logits),
        LogitGradient<X>{p, logits, s.max, s.sum, s.target_logit,
                         static_cast<const int32_t*>(targets.data), v_begin, unit(p.dtype)});
  });
}

void copy_targets(cudaStream_t stream, const HeadState& state, TensorView weight, int64_t v_begin,
                  TensorView targets) {
  const TensorView& to = state.target_rows;
  const int64_t N = to.shape[0], C = to.shape[1];
  with_storage(to.dtype, [&]<typename X>(Type<X>) {
    with_storage(weight.dtype, [&]<typename G>(Type<G>) {
      for_elements<kPack<X>>(
          stream, "copy_targets", N, C, is_packed(to, to.dtype) && is_packed(weight, to.dtype),
          CopyTarget<X, G>{to.as<X>(), weight.as<G>(), static_cast<const int32_t*>(targets.data),
                           v_begin, weight.shape[0], C});
    });
  });
}

void head_begin(const Engine& engine, const HeadState& state) {
  const State s(state);
  launch_packs<1>(engine.stream, "head_begin", 1, state.max.elements(),
                  Begin{s.max, s.sum, s.target_logit});
  if (!state.acc) return;
  fill(engine.stream, state.acc, 0);
  fill(engine.stream, state.target_rows, 0);
}

void head_finish(const Engine& engine, TensorView loss, MatrixView dx, const HeadState& state,
                 float grad_scale) {
  const State s(state);
  launch_packs<1>(engine.stream, "head_loss", 1, loss.elements(),
                  Loss{loss.as<float>(), s.max, s.sum, s.target_logit});
  if (!dx) return;
  with_storage(dx.dtype, [&]<typename X>(Type<X>) {
    for_elements<kPack<X>>(
        engine.stream, "head_gradient", dx.rows, dx.cols,
        is_packed(dx) && is_packed(state.acc, dx.dtype) && is_packed(state.target_rows, dx.dtype),
        Gradient<X>{dx, s.acc, s.max, s.sum, s.target_logit, state.target_rows.as<X>(), s.C,
                    grad_scale});
  });
}

}  // namespace lema::cuda
