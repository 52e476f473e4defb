// LayerNorm forward and backward, one row at a time. The variance is taken about the mean, in a
// second pass over the row in L1: the difference of squares would cancel.
#include "cpu/layernorm.h"

#include <cmath>

#include "cpu/simd.h"
#include "dispatch.h"

namespace lema::cpu {
namespace {

struct Moments {
  float mean, rstd;
};

template <int W, typename X>
Moments moments(const X* x, int64_t C, float eps) {
  const auto count = static_cast<float>(C);
  const float mean =
      sum_columns<W>(C, [&](int64_t c, auto n) { return load<W>(x + c, n); }) / count;
  const float squares = sum_columns<W>(C, [&](int64_t c, auto n) {
    const Floats<W> v = load<W>(x + c, n) - mean;
    return v * v;
  });
  return {mean, 1 / std::sqrt(squares / count + eps)};
}

template <int W, typename X, typename G, typename B>
void forward_row(X* y, const X* x, const G* weight, const B* bias, int64_t C, float eps) {
  const Moments m = moments<W>(x, C, eps);
  for_columns<W>(C, [&](int64_t c, auto n) {
    const Floats<W> normed = (load<W>(x + c, n) - m.mean) * m.rstd;
    store<W>(y + c, normed * load<W>(weight + c, n) + load<W>(bias + c, n), n);
  });
}

// With g = weight * dy and h = (x - mean) * rstd: dx = rstd * (g - mean(g) - h * mean(g h)).
template <int W, typename X, typename G>
void backward_row(X* dx, const X* dy, const X* x, const G* weight, int64_t C, float eps,
                  Write write) {
  const auto count = static_cast<float>(C);
  const Moments m = moments<W>(x, C, eps);
  const auto g = [&](int64_t c, auto n) { return load<W>(weight + c, n) * load<W>(dy + c, n); };
  const auto h = [&](int64_t c, auto n) { return (load<W>(x + c, n) - m.mean) * m.rstd; };
  const float mean_g = sum_columns<W>(C, g) / count;
  const float mean_gh =
      sum_columns<W>(C, [&](int64_t c, auto n) { return g(c, n) * h(c, n); }) / count;
  for_columns<W>(C, [&](int64_t c, auto n) {
    store<W>(dx + c, m.rstd * (g(c, n) - mean_g - h(c, n) * mean_gh), n, write);
  });
}

}  // namespace

void layernorm(ThreadPool& pool, MatrixView y, MatrixView x, TensorView weight, TensorView bias,
               float eps) {
  with_activation(x.dtype, [&]<typename X>(Type<X>) {
    with_storage(weight.dtype, [&]<typename G>(Type<G>) {
      with_storage(bias.dtype, [&]<typename B>(Type<B>) {
        const G* w = weight.as<G>();
        const B* b = bias.as<B>();
        for_rows(pool, x.rows, x.cols, [&](int64_t n, auto lanes) {
          forward_row<lanes.kCount>(row<X>(y, n), row<X>(x, n), w, b, x.cols, eps);
        });
      });
    });
  });
}

void layernorm_backward(ThreadPool& pool, MatrixView dx, MatrixView dy, MatrixView x,
                        TensorView weight, float eps, Write write) {
  with_activation(x.dtype, [&]<typename X>(Type<X>) {
    with_storage(weight.dtype, [&]<typename G>(Type<G>) {
      const G* w = weight.as<G>();
      for_rows(pool, x.rows, x.cols, [&](int64_t n, auto lanes) {
        backward_row<lanes.kCount>(row<X>(dx, n), row<X>(dy, n), row<X>(x, n), w, x.cols, eps,
                                   write);
      });
    });
  });
}

}  // namespace lema::cpu
