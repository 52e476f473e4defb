// SwiGLU forward and backward, element-wise over rows of gate and up.
#include "cpu/swiglu.h"

#include "cpu/math.h"
#include "cpu/simd.h"
#include "dispatch.h"

namespace lema::cpu {

void swiglu(ThreadPool& pool, MatrixView y, MatrixView gate_up) {
  const int64_t F = y.cols;
  with_activation(y.dtype, [&]<typename X>(Type<X>) {
    for_rows(pool, y.rows, 2 * F, [&](int64_t r, auto lanes) {
      constexpr int W = lanes.kCount;
      const X *gate = row<X>(gate_up, r), *up = gate + F;
      X* out = row<X>(y, r);
      for_columns<W>(F, [&](int64_t c, auto n) {
        const Floats<W> g = load<W>(gate + c, n);
        store<W>(out + c, g * logistic<W>(g).value * load<W>(up + c, n), n);
      });
    });
  });
}

// silu = g s with s the logistic function of g; dsilu/dg = s + g s (1 - s).
void swiglu_backward(ThreadPool& pool, MatrixView d_gate_up, MatrixView dy, MatrixView gate_up) {
  const int64_t F = dy.cols;
  with_activation(dy.dtype, [&]<typename X>(Type<X>) {
    for_rows(pool, dy.rows, 2 * F, [&](int64_t r, auto lanes) {
      constexpr int W = lanes.kCount;
      const X *gate = row<X>(gate_up, r), *up = gate + F, *upstream = row<X>(dy, r);
      X *d_gate = row<X>(d_gate_up, r), *d_up = d_gate + F;
      for_columns<W>(F, [&](int64_t c, auto n) {
        const Floats<W> g = load<W>(gate + c, n), u = load<W>(up + c, n),
                        d = load<W>(upstream + c, n);
        const Logistic<W> s = logistic<W>(g);
        store<W>(d_gate + c, d * u * (s.value * (1.0f + g * s.complement)), n);
        store<W>(d_up + c, d * (g * s.value), n);
      });
    });
  });
}

}  // namespace lema::cpu
