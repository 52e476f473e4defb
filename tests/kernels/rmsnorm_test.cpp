// RMSNorm: the reference's backward against the complex step, the kernel against the reference.
#include "ref/rmsnorm.h"

#include "support/kernel_case.h"

namespace lema::test {
namespace {

constexpr double kEps = 1e-5;

void check_kernel(int64_t N, int64_t C, DType X, DType G) {
  INFO("N " << N << ", C " << C << ", " << name(X) << ", weight " << name(G));
  const Matrix x = Matrix::random(N, C, X, 1, 2, apart(C, 3)), weight = Matrix::random(1, C, G, 2);
  const Matrix dy = Matrix::random(N, C, X, 3), before = Matrix::random(N, C, X, 4, 1, apart(C, 5));
  const float eps = static_cast<float>(kEps);

  const Values expected = ref::rmsnorm(x.values(), weight.values(), eps);
  Values bound = elementwise_bound(expected, X);
  for (size_t i = 0; i < bound.size(); ++i) bound[i] += reduction_bound(C, std::abs(expected[i]));
  const auto forward = [&](Ops& ops, const Matrix& y) { ops.rmsnorm(y, x, weight.vector(), eps); };
  expect_close("y", result_of(before, forward).values(), expected, bound);
  const Matrix aliased =
      result_of(x, [&](Ops& ops, const Matrix& y) { ops.rmsnorm(y, y, weight.vector(), eps); });
  CHECK(aliased.values() == result_of(before, forward).values());

  const Values gradient = ref::rmsnorm_backward(dy.values(), x.values(), weight.values(), eps);
  // The two terms of dx may cancel, so the bound is on their magnitudes: |g| and |x| mean|g x| /
  // rms^2, over rms.
  const Values at = x.values(), w = weight.values(), d = dy.values();
  Values magnitude = gradient;
  const auto width = static_cast<size_t>(C);
  for (size_t n = 0; n < gradient.size(); n += width) {
    double square = 0, along = 0;
    for (size_t c = 0; c < width; ++c) {
      square += std::pow(at[n + c], 2) / static_cast<double>(C);
      along += std::abs(d[n + c] * w[c] * at[n + c]) / static_cast<double>(C);
    }
    const double rms = std::sqrt(square + eps);
    for (size_t c = 0; c < width; ++c)
      magnitude[n + c] =
          (std::abs(d[n + c] * w[c]) + std::abs(at[n + c]) * along / (rms * rms)) / rms;
  }
  for (const Write write : {Write::Overwrite, Write::Accumulate}) {
    Values sum = gradient;
    if (write == Write::Accumulate) sum = gradient + before.values();
    Values dx_bound = elementwise_bound(sum, X);
    for (size_t i = 0; i < sum.size(); ++i) dx_bound[i] += reduction_bound(C, magnitude[i]);
    const Matrix dx = result_of(before, [&](Ops& ops, const Matrix& out) {
      ops.rmsnorm_backward(out, dy, x, weight.vector(), eps, write);
    });
    expect_close("dx", dx.values(), sum, dx_bound);
  }
}

}  // namespace

TEST_CASE("rmsnorm: the reference backward is the derivative of the reference forward") {
  const Values x = Matrix::random(3, 7, DType::F32, 1).values(),
               weight = Matrix::random(1, 7, DType::F32, 2).values();
  const Values dy = Matrix::random(3, 7, DType::F32, 3).values();
  const auto forward = [&](const Complexes& z) { return ref::rmsnorm(z, weight, kEps); };
  expect_same_gradient("dx", ref::rmsnorm_backward(dy, x, weight, kEps),
                       complex_step_gradient(forward, x, dy));
}

TEST_CASE("rmsnorm: the kernel is the reference") {
  on_each_isa([] {
    for (const int64_t N : kRows)
      for (const int64_t C : kWidths)
        for (const DType X : activations())
          for (const DType G : kWeights) check_kernel(N, C, X, G);
    for (const int64_t C : {1025, 2048}) check_kernel(3, C, DType::BF16, DType::BF16);
  });
}

TEST_CASE("rmsnorm: each run of columns of a row is a row of its own") {
  on_each_isa([] {
    for (const DType X : activations())
      for (const int64_t C : {int64_t{1}, int64_t{7}, int64_t{64}, int64_t{80}}) {
        INFO("C " << C << ", " << name(X));
        const int64_t N = 3, heads = 5;
        const Matrix x = Matrix::random(N, heads * C, X, 1, 2, apart(heads * C, 9)),
                     dy = Matrix::random(N, heads * C, X, 2), w = Matrix::random(1, C, X, 3);
        const auto eps = static_cast<float>(kEps);
        Ops& ops = test_ops(2);
        Matrix y(N, heads * C, X), dx(N, heads * C, X);
        ops.rmsnorm(y, x, w.vector(), eps);
        ops.rmsnorm_backward(dx, dy, x, w.vector(), eps, Write::Overwrite);
        Matrix in_place = dy;
        ops.rmsnorm_backward(in_place, in_place, x, w.vector(), eps, Write::Overwrite);
        CHECK(in_place.same_bytes(dx));
        for (int64_t h = 0; h < heads; ++h) {
          const auto head = [&](const MatrixView& m) { return m.col_range(h * C, (h + 1) * C); };
          Matrix alone_y(N, C, X), alone_dx(N, C, X);
          ops.rmsnorm(alone_y, head(x), w.vector(), eps);
          ops.rmsnorm_backward(alone_dx, head(dy), head(x), w.vector(), eps, Write::Overwrite);
          const Values all_y = y.values(), all_dx = dx.values(), one_y = alone_y.values(),
                       one_dx = alone_dx.values();
          for (int64_t n = 0; n < N; ++n)
            for (int64_t c = 0; c < C; ++c) {
              const auto at = static_cast<size_t>((n * heads + h) * C + c),
                         own = static_cast<size_t>(n * C + c);
              REQUIRE((all_y[at] == one_y[own] && all_dx[at] == one_dx[own]));
            }
        }
      }
  });
}

TEST_CASE("rmsnorm: x rstd is rounded before the weight, as LlamaRMSNorm does") {
  Matrix y(1, 2, DType::BF16);
  int told_apart = 0;
  for (int i = 0; i < 200; ++i) {
    const Matrix pair = Matrix::random(1, 2, DType::BF16, static_cast<uint64_t>(i));
    const Matrix scale = Matrix::random(1, 2, DType::F32, static_cast<uint64_t>(i + 1000));
    Ops& ops = test_ops(1);
    ops.rmsnorm(y, pair, scale.vector(), 0.0f);
    const Values v = pair.values(), w = scale.values();
    const auto rstd = static_cast<float>(1 / std::sqrt((v[0] * v[0] + v[1] * v[1]) / 2));
    const float normed = to_f32(to_bf16(static_cast<float>(v[0]) * rstd)),
                scalar = static_cast<float>(w[0]);
    CHECK(y.values()[0] == to_f32(to_bf16(normed * scalar)));
    told_apart += y.values()[0] != to_f32(to_bf16(static_cast<float>(v[0]) * rstd * scalar));
  }
  CHECK(told_apart > 10);
}

}  // namespace lema::test
