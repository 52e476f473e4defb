// RoPE: turning back is the backward pass (complex step), the kernel against the reference.
#include "ref/rope.h"

#include "support/kernel_case.h"

namespace lema::test {
namespace {

// Row p: cos(p f), sin(p f) with the usual frequencies.
Matrix angle_table(int64_t positions, int64_t P) {
  Matrix table(positions, P, DType::F32);
  for (int64_t p = 0; p < positions; ++p)
    for (int64_t i = 0; i < P / 2; ++i) {
      const double angle = static_cast<double>(p) *
                           std::pow(10000.0, -2 * static_cast<double>(i) / static_cast<double>(P));
      table.set(p, i, std::cos(angle));
      table.set(p, P / 2 + i, std::sin(angle));
    }
  return table;
}

Matrix some_positions(int64_t N) {
  Matrix positions(1, N, DType::I32);
  for (int64_t n = 0; n < N; ++n) positions.set(0, n, static_cast<double>((n * 13 + 5) % 40));
  return positions;
}

}  // namespace

TEST_CASE("rope: the rotation back is the derivative of the rotation") {
  const Values table = angle_table(40, 6).values(), positions = some_positions(3).values();
  const Values x = Matrix::random(3, 16, DType::F32, 1).values(),
               dy = Matrix::random(3, 16, DType::F32, 2).values();
  const auto forward = [&](const Complexes& z) { return ref::rope(z, positions, table, 6, 8, 1); };
  expect_same_gradient("dx", ref::rope(dy, positions, table, 6, 8, -1),
                       complex_step_gradient(forward, x, dy));
}

TEST_CASE("rope: the kernel is the reference, in columns of a wider matrix") {
  struct Size {
    int64_t heads, D, P;
  };
  on_each_isa([] {
    for (const Size s :
         {Size{1, 2, 2}, {3, 64, 64}, {2, 80, 32}, {7, 14, 10}, {1, 34, 34}, {2, 128, 128}})
      for (const int64_t N : kRows)
        for (const DType X : activations())
          for (const bool inverse : {false, true}) {
            INFO("N " << N << ", D " << s.D << ", P " << s.P << ", " << name(X)
                      << (inverse ? ", back" : ""));
            const Matrix x = Matrix::random(N, s.heads * s.D, X, 1, 1, apart(s.heads * s.D, 9));
            const Matrix positions = some_positions(N), table = angle_table(40, s.P);
            const auto P = static_cast<size_t>(s.P), D = static_cast<size_t>(s.D);
            const Values at = x.values();
            const Values expected =
                ref::rope(at, positions.values(), table.values(), P, D, inverse ? -1 : 1);
            Values bound = elementwise_bound(expected, X);
            for (size_t i = 0; i < bound.size();
                 ++i)  // the two products may cancel; both stay below their pair's norm
              if (i % D < P) {
                const size_t pair = i % D < P / 2 ? i + P / 2 : i - P / 2;
                bound[i] += reduction_bound(2, std::hypot(at[i], at[pair]));
              }
            const Matrix y = result_of(x, [&](Ops& ops, const Matrix& out) {
              ops.rope(out, positions.vector(), table.tensor(), s.D, inverse);
            });
            expect_close("y", y.values(), expected, bound);
          }
  });
}

}  // namespace lema::test
