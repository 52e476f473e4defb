// SwiGLU, and exp and the logistic function below it: against the complex step, the reference and
// the C library.
#include "ref/swiglu.h"

#include "cpu/math.h"
#include "support/kernel_case.h"

namespace lema::test {

TEST_CASE("swiglu: the reference backward is the derivative of the reference forward") {
  const Values x = Matrix::random(3, 14, DType::F32, 1).values(),
               dy = Matrix::random(3, 7, DType::F32, 2).values();
  const auto forward = [&](const Complexes& z) { return ref::swiglu(z, 7); };
  expect_same_gradient("dx", ref::swiglu_backward(dy, x, 7), complex_step_gradient(forward, x, dy));
}

TEST_CASE("swiglu: the kernel is the reference") {
  on_each_isa([] {
    for (const int64_t N : kRows)
      for (const int64_t F : kWidths)
        for (const DType X : activations()) {
          INFO("N " << N << ", F " << F << ", " << name(X));
          const Matrix gate_up = Matrix::random(N, 2 * F, X, 1, 4, apart(2 * F, 3)),
                       dy = Matrix::random(N, F, X, 2);
          const Matrix y(N, F, X, apart(F, 1)), d_gate_up(N, 2 * F, X, apart(2 * F, 3));
          const Values expected = ref::swiglu(gate_up.values(), static_cast<size_t>(F));
          const auto forward = [&](Ops& ops, const Matrix& out) { ops.swiglu(out, gate_up); };
          expect_close("y", result_of(y, forward).values(), expected,
                       elementwise_bound(expected, X));

          const Values gradient =
              ref::swiglu_backward(dy.values(), gate_up.values(), static_cast<size_t>(F));
          // s (1 + g (1 - s)) crosses zero at g = -1.28: there the bound is on the two terms.
          Values bound = elementwise_bound(gradient, X);
          const Values at = gate_up.values(), d = dy.values();
          const auto width = static_cast<size_t>(F);
          for (size_t i = 0; i < bound.size(); ++i)
            if (i % (2 * width) < width) {
              const double s = 1 / (1 + std::exp(-at[i]));
              const double first = d[i / (2 * width) * width + i % width] * at[i + width] * s;
              bound[i] += reduction_bound(2, std::abs(first) * (1 + std::abs(at[i]) * (1 - s)));
            }
          const Matrix separate = result_of(d_gate_up, [&](Ops& ops, const Matrix& out) {
            ops.swiglu_backward(out, dy, gate_up);
          });
          expect_close("d_gate_up", separate.values(), gradient, bound);
          const Matrix aliased = result_of(
              gate_up, [&](Ops& ops, const Matrix& out) { ops.swiglu_backward(out, dy, out); });
          CHECK(aliased.values() == separate.values());
        }
  });
}

TEST_CASE("exp: relative error at most 2e-7 over its whole range", "[cpu]") {
  on_each_isa([] {
    double worst = 0;
    cpu::vectorised([&](auto lanes) {
      constexpr int W = lanes.kCount;
      for (double x = -87.3; x < 88.7; x += 0.000731) {
        const auto y = cpu::exp<W>(cpu::broadcast<W>(static_cast<float>(x)));
        const double exact = std::exp(static_cast<double>(static_cast<float>(x)));
        worst = std::max(worst, std::abs(static_cast<double>(y[0]) / exact - 1));
      }
    });
    INFO("worst relative error " << worst);
    CHECK(worst <= 2e-7);
  });
}

TEST_CASE("exp and logistic: infinities, NaN, zero, subnormal results", "[cpu]") {
  on_each_isa([] {
    cpu::vectorised([](auto lanes) {
      constexpr int W = lanes.kCount;
      const auto exp = [](float x) { return cpu::exp<W>(cpu::broadcast<W>(x))[W - 1]; };
      CHECK(exp(0.0f) == 1.0f);
      CHECK(exp(-INFINITY) == 0.0f);
      CHECK(exp(-104.5f) == 0.0f);
      CHECK(std::isinf(exp(88.8f)));
      CHECK(std::isinf(exp(INFINITY)));
      CHECK(std::isnan(exp(NAN)));
      CHECK(std::abs(exp(-100.0f) / std::exp(-100.0f) - 1) < 0.02f);
      const auto at = [](float x) { return cpu::logistic<W>(cpu::broadcast<W>(x)); };
      CHECK(at(200.0f).value[0] == 1.0f);
      CHECK(at(200.0f).complement[0] == 0.0f);
      CHECK(at(-200.0f).value[0] == 0.0f);
      CHECK(at(0.0f).value[0] == 0.5f);
      CHECK(std::isnan(at(NAN).value[0]));
    });
  });
}

}  // namespace lema::test
