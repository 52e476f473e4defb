// GELU: the reference's backward against the complex step, the kernel against the reference.
#include "ref/gelu.h"

#include "support/kernel_case.h"

namespace lema::test {

TEST_CASE("gelu: the reference backward is the derivative of the reference forward") {
  const Values x = Matrix::random(3, 7, DType::F32, 1).values(),
               dy = Matrix::random(3, 7, DType::F32, 2).values();
  const auto forward = [&](const Complexes& z) { return ref::gelu(z); };
  expect_same_gradient("dx", ref::gelu_backward(dy, x), complex_step_gradient(forward, x, dy));
}

TEST_CASE("gelu: the kernel is the reference") {
  on_each_isa([] {
    for (const int64_t N : kRows)
      for (const int64_t F : kWidths)
        for (const DType X : activations()) {
          INFO("N " << N << ", F " << F << ", " << name(X));
          const Matrix x = Matrix::random(N, F, X, 1, 2, apart(F, 3)),
                       dy = Matrix::random(N, F, X, 2, 1, apart(F, 2));
          const Matrix y(N, F, X, apart(F, 1));
          const Values expected = ref::gelu(x.values()),
                       gradient = ref::gelu_backward(dy.values(), x.values());
          // The slope amplifies the rounding of the exponent: |w| u relative, |w| = 2 |u(x)| up to
          // about 20 here.
          Values bound = elementwise_bound(expected, X), dx_bound = elementwise_bound(gradient, X);
          const Values at = x.values(), d = dy.values();
          for (size_t i = 0; i < bound.size(); ++i) {
            const double w =
                1 + 2 * std::abs(ref::kGeluSlope * (at[i] + 0.044715 * std::pow(at[i], 3)));
            // The reference's own 1 + tanh cancels in the far negative tail.
            bound[i] += reduction_bound(1, w * std::abs(expected[i])) + 0x1p-52 * std::abs(at[i]);
            const double tail =
                std::abs(d[i]) * (1 + std::abs(at[i])) / (1 + std::exp(std::min(0.0, -at[i])));
            dx_bound[i] += reduction_bound(1, w * (std::abs(gradient[i]) + tail));
          }
          const auto forward = [&](Ops& ops, const Matrix& out) { ops.gelu(out, x); };
          const auto in_place = [&](Ops& ops, const Matrix& out) { ops.gelu(out, out); };
          expect_close("y", result_of(y, forward).values(), expected, bound);
          CHECK(result_of(x, in_place).values() == result_of(y, forward).values());

          const auto backward = [&](Ops& ops, const Matrix& out) { ops.gelu_backward(out, dy, x); };
          const auto over_dy = [&](Ops& ops, const Matrix& out) { ops.gelu_backward(out, out, x); };
          expect_close("dx", result_of(y, backward).values(), gradient, dx_bound);
          CHECK(result_of(dy, over_dy).values() == result_of(y, backward).values());
        }
  });
}

TEST_CASE("gelu: far tails are 0 and x, with slopes 0 and 1") {
  Matrix x(1, 2, DType::F32), dy(1, 2, DType::F32), out(1, 2, DType::F32);
  for (int64_t c : {0, 1}) {
    x.set(0, c, c ? 50 : -50);
    dy.set(0, c, 1);
  }
  Ops& ops = test_ops(1);
  ops.gelu(out, x);
  CHECK(out.values() == Values{0, 50});
  ops.gelu_backward(out, dy, x);
  CHECK(out.values() == Values{0, 1});
}

}  // namespace lema::test
