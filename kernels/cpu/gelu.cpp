// GELU forward and backward. 0.5 (1 + tanh(u)) is the logistic function of 2u, which keeps full
// precision for large negative x, where the sum would cancel.
#include "cpu/gelu.h"

#include "cpu/math.h"
#include "cpu/simd.h"
#include "dispatch.h"

namespace lema::cpu {
namespace {

constexpr float kTwoRootTwoOverPi = 1.5957691216057308f;  // 2 sqrt(2 / pi)
constexpr float kCubic = 0.044715f;

}  // namespace

void gelu(ThreadPool& pool, MatrixView y, MatrixView x) {
  with_activation(x.dtype, [&]<typename X>(Type<X>) {
    for_rows(pool, x.rows, x.cols, [&](int64_t r, auto lanes) {
      constexpr int W = lanes.kCount;
      const X* in = row<X>(x, r);
      X* out = row<X>(y, r);
      for_columns<W>(x.cols, [&](int64_t c, auto n) {
        const Floats<W> v = load<W>(in + c, n);
        const Floats<W> twice_u = kTwoRootTwoOverPi * v * (1.0f + kCubic * v * v);
        store<W>(out + c, v * logistic<W>(twice_u).value, n);
      });
    });
  });
}

// With s the logistic function of w = 2u: dy/dx = s + x s (1 - s) dw/dx.
void gelu_backward(ThreadPool& pool, MatrixView dx, MatrixView dy, MatrixView x) {
  with_activation(x.dtype, [&]<typename X>(Type<X>) {
    for_rows(pool, x.rows, x.cols, [&](int64_t r, auto lanes) {
      constexpr int W = lanes.kCount;
      const X *in = row<X>(x, r), *upstream = row<X>(dy, r);
      X* out = row<X>(dx, r);
      for_columns<W>(x.cols, [&](int64_t c, auto n) {
        const Floats<W> v = load<W>(in + c, n);
        const Logistic<W> s = logistic<W>(kTwoRootTwoOverPi * v * (1.0f + kCubic * v * v));
        const Floats<W> slope = kTwoRootTwoOverPi * (1.0f + 3 * kCubic * v * v);
        const Floats<W> derivative = s.value * (1.0f + v * s.complement * slope);
        store<W>(out + c, load<W>(upstream + c, n) * derivative, n);
      });
    });
  });
}

}  // namespace lema::cpu
