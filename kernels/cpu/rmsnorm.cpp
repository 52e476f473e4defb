// RMSNorm forward and backward, one run of columns (a row, or a head of it) at a time; it stays in
// L1 between the two passes over it.
#include "cpu/rmsnorm.h"

#include <cmath>

#include "cpu/simd.h"
#include "dispatch.h"

namespace lema::cpu {
namespace {

template <int W, typename X>
float reciprocal_rms(const X* x, int64_t C, float eps) {
  const float squares = sum_columns<W>(C, [&](int64_t c, auto n) {
    const Floats<W> v = load<W>(x + c, n);
    return v * v;
  });
  return 1 / std::sqrt(squares / static_cast<float>(C) + eps);
}

template <int W, typename X, typename G>
void forward_row(X* y, const X* x, const G* weight, int64_t C, float eps) {
  const float rstd = reciprocal_rms<W>(x, C, eps);
  for_columns<W>(C, [&](int64_t c, auto n) {
    const Floats<W> normed = rounded_to<W, X>(load<W>(x + c, n) * rstd);
    store<W>(y + c, normed * load<W>(weight + c, n), n);
  });
}

// With g = weight * dy: dx = rstd * g - x * rstd^3 / C * sum(g x).
template <int W, typename X, typename G>
void backward_row(X* dx, const X* dy, const X* x, const G* weight, int64_t C, float eps,
                  Write write) {
  const float rstd = reciprocal_rms<W>(x, C, eps);
  const float dot = sum_columns<W>(C, [&](int64_t c, auto n) {
    return load<W>(weight + c, n) * load<W>(dy + c, n) * load<W>(x + c, n);
  });
  const float along_x = rstd * rstd * rstd * dot / static_cast<float>(C);
  for_columns<W>(C, [&](int64_t c, auto n) {
    const Floats<W> g = load<W>(weight + c, n) * load<W>(dy + c, n);
    store<W>(dx + c, rstd * g - along_x * load<W>(x + c, n), n, write);
  });
}

}  // namespace

void rmsnorm(ThreadPool& pool, MatrixView y, MatrixView x, TensorView weight, float eps) {
  const int64_t C = weight.shape[0];
  with_activation(x.dtype, [&]<typename X>(Type<X>) {
    with_storage(weight.dtype, [&]<typename G>(Type<G>) {
      const G* w = weight.as<G>();
      for_rows(pool, x.rows, x.cols, [&](int64_t n, auto lanes) {
        for (int64_t c = 0; c < x.cols; c += C)
          forward_row<lanes.kCount>(row<X>(y, n) + c, row<X>(x, n) + c, w, C, eps);
      });
    });
  });
}

void rmsnorm_backward(ThreadPool& pool, MatrixView dx, MatrixView dy, MatrixView x,
                      TensorView weight, float eps, Write write) {
  const int64_t C = weight.shape[0];
  with_activation(x.dtype, [&]<typename X>(Type<X>) {
    with_storage(weight.dtype, [&]<typename G>(Type<G>) {
      const G* w = weight.as<G>();
      for_rows(pool, x.rows, x.cols, [&](int64_t n, auto lanes) {
        for (int64_t c = 0; c < x.cols; c += C)
          backward_row<lanes.kCount>(row<X>(dx, n) + c, row<X>(dy, n) + c, row<X>(x, n) + c, w, C,
                                     eps, write);
      });
    });
  });
}

}  // namespace lema::cpu
