// Dropout of a low-rank product: how much it keeps, and that its mask depends on place alone.
#include "support/linear_case.h"

using namespace lema;
using namespace lema::test;
using namespace lema::test::linear;

TEST_CASE("dropout: keep rate, replay, and independence of the row split") {
  const float dropout = 0.3f;
  // W = 0, A = one row that picks column sums, B = 1: y[n] counts the kept elements of row n times
  // 1 / (1 - p).
  const int64_t N = 256, I = 512;
  Matrix x(N, I, DType::F32), weight(1, I, DType::F32), a(1, I, DType::F32), b(1, 1, DType::F32);
  for (int64_t i = 0; i < I; ++i) {
    weight.set(0, i, 0), a.set(0, i, 1);
    for (int64_t n = 0; n < N; ++n) x.set(n, i, 1);
  }
  b.set(0, 0, 1);
  LoraView lora;
  lora.a = a.tensor(), lora.b = b.tensor(), lora.scale = 1, lora.dropout = dropout,
  lora.dropout_key = 7;
  const LinearPart part = {weight.tensor(), false, {}, &lora};
  const auto ops = make_test_ops(2, kLimits);
  Matrix y(N, 1, DType::F32), again(N, 1, DType::F32), split(N, 1, DType::F32);
  ops->linear(y, x, {&part, 1}, Write::Overwrite);
  ops->linear(again, x, {&part, 1}, Write::Overwrite);
  CHECK(again.same_bytes(y));
  for (auto [begin, end] : {std::pair<int64_t, int64_t>{0, 100}, {100, 256}}) {
    lora.first_row = begin;
    ops->linear(split.view().row_range(begin, end), x.view().row_range(begin, end), {&part, 1},
                Write::Overwrite);
  }
  CHECK(split.same_bytes(y));
  double kept = 0;
  for (double v : y.values()) kept += v * (1 - static_cast<double>(dropout));
  const double n = static_cast<double>(N * I), p = 1 - static_cast<double>(dropout);
  expect_close("kept elements", {kept}, {p * n},
               5 * std::sqrt(n * p * (1 - p)));  // five standard deviations
}
