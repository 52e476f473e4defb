// LayerNorm: the reference's backward against the complex step, the kernel against the
// reference.
#include "ref/layernorm.h"

#include "support/kernel_case.h"

namespace lema::test {
namespace {

constexpr double kEps = 1e-5;

// For the bounds: rounding errors scale with the largest |x| of a row, results with 1 / sigma.
struct RowScale {
  double largest = 0, rstd = 0;
};
RowScale row_scale(const Values& x, size_t n, size_t C) {
  double mean = 0, variance = 0, largest = 0;
  for (size_t c = 0; c < C; ++c) mean += x[n + c] / static_cast<double>(C);
  for (size_t c = 0; c < C; ++c) {
    variance += std::pow(x[n + c] - mean, 2) / static_cast<double>(C);
    largest = std::max(largest, std::abs(x[n + c]));
  }
  return {largest, 1 / std::sqrt(variance + kEps)};
}

void check_kernel(int64_t N, int64_t C, DType X, DType G) {
  INFO("N " << N << ", C " << C << ", " << name(X) << ", weight " << name(G));
  const Matrix x = Matrix::random(N, C, X, 1, 2, apart(C, 3)), weight = Matrix::random(1, C, G, 2);
  const Matrix bias = Matrix::random(1, C, DType::F32, 5), dy = Matrix::random(N, C, X, 3);
  const Matrix before = Matrix::random(N, C, X, 4, 1, apart(C, 5));
  const float eps = static_cast<float>(kEps);
  const Values at = x.values(), w = weight.values(), b = bias.values(), d = dy.values();
  const auto width = static_cast<size_t>(C);

  const Values expected = ref::layernorm(at, w, b, eps),
               gradient = ref::layernorm_backward(d, at, w, eps);
  Values bound = elementwise_bound(expected, X), magnitude(at.size());
  for (size_t n = 0; n < at.size(); n += width) {
    const RowScale scale = row_scale(at, n, width);
    double largest_g = 0;
    for (size_t c = 0; c < width; ++c) largest_g = std::max(largest_g, std::abs(d[n + c] * w[c]));
    for (size_t c = 0; c < width; ++c) {
      const double normed = scale.largest * scale.rstd;
      bound[n + c] += reduction_bound(C, normed * std::abs(w[c]) + std::abs(b[c]));
      magnitude[n + c] = scale.rstd * largest_g * (2 + normed * normed);
    }
  }
  const auto forward = [&](Ops& ops, const Matrix& y) {
    ops.layernorm(y, x, weight.vector(), bias.vector(), eps);
  };
  expect_close("y", result_of(before, forward).values(), expected, bound);
  const Matrix aliased = result_of(x, [&](Ops& ops, const Matrix& y) {
    ops.layernorm(y, y, weight.vector(), bias.vector(), eps);
  });
  CHECK(aliased.values() == result_of(before, forward).values());

  for (const Write write : {Write::Overwrite, Write::Accumulate}) {
    const Values sum = write == Write::Accumulate ? gradient + before.values() : gradient;
    Values dx_bound = elementwise_bound(sum, X);
    for (size_t i = 0; i < sum.size(); ++i) dx_bound[i] += reduction_bound(C, magnitude[i]);
    const Matrix dx = result_of(before, [&](Ops& ops, const Matrix& out) {
      ops.layernorm_backward(out, dy, x, weight.vector(), eps, write);
    });
    expect_close("dx", dx.values(), sum, dx_bound);
    if (write == Write::Overwrite && C > 1) expect_gradient("dx", dx.values(), sum, X);
  }
}

}  // namespace

TEST_CASE("layernorm: the reference backward is the derivative of the reference forward") {
  const Values x = Matrix::random(3, 7, DType::F32, 1).values(),
               weight = Matrix::random(1, 7, DType::F32, 2).values();
  const Values bias = Matrix::random(1, 7, DType::F32, 4).values(),
               dy = Matrix::random(3, 7, DType::F32, 3).values();
  const auto forward = [&](const Complexes& z) { return ref::layernorm(z, weight, bias, kEps); };
  expect_same_gradient("dx", ref::layernorm_backward(dy, x, weight, kEps),
                       complex_step_gradient(forward, x, dy));
}

TEST_CASE("layernorm: the kernel is the reference") {
  on_each_isa([] {
    for (const int64_t N : kRows)
      for (const int64_t C : kWidths)
        for (const DType X : activations())
          for (const DType G : kWeights) check_kernel(N, C, X, G);
    for (const int64_t C : {1025, 2048}) check_kernel(3, C, DType::BF16, DType::BF16);
  });
}

TEST_CASE("layernorm: a large mean costs no precision in the variance") {
  Matrix x(1, 64, DType::F32), y(1, 64, DType::F32), one(1, 64, DType::F32),
      zero(1, 64, DType::F32);
  for (int64_t c = 0; c < 64; ++c) {
    x.set(0, c, 4096 + (c % 2 ? 1 : -1));
    one.set(0, c, 1);
    zero.set(0, c, 0);
  }
  Ops& ops = test_ops(1);
  ops.layernorm(y, x, one.vector(), zero.vector(), 0.0f);
  for (int64_t c = 0; c < 64; ++c) CHECK(y.values()[static_cast<size_t>(c)] == (c % 2 ? 1 : -1));
}

}  // namespace lema::test
