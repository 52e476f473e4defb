// Ops::linear and linear_backward with adapters: several parts, dropout, magnitudes, ranks of all
// sizes.
#include "support/linear_case.h"

using namespace lema;
using namespace lema::test;
using namespace lema::test::linear;

TEST_CASE("linear: parts, adapters, dropout") {
  for (DType X : activations())
    for (Write write : {Write::Overwrite, Write::Accumulate})
      for (float dropout : {0.0f, 0.25f})
        for (int64_t N : {1, 3, 150}) {
          check_case({.N = N,
                      .I = 101,
                      .outs = {60, 20, 20},
                      .R = 16,
                      .X = X,
                      .W = X,
                      .Y = X,
                      .bias = true,
                      .strided = true,
                      .write = write,
                      .dropout = dropout});
          check_case({.N = N,
                      .I = 530,
                      .outs = {33},
                      .R = 5,
                      .X = X,
                      .W = X,
                      .Y = X,
                      .transposed = true,
                      .write = write,
                      .dropout = dropout});
        }
  check_case({.N = 140, .I = 300, .outs = {260, 3}, .R = 64, .dropout = 0.1f});
}

TEST_CASE("linear: magnitudes") {
  for (DType X : activations())
    for (float dropout : {0.0f, 0.25f})
      for (bool transposed : {false, true})
        for (int64_t N : {1, 5, 40}) {
          check_case({.N = N,
                      .I = 101,
                      .outs = {60, 20, 20},
                      .R = 16,
                      .X = X,
                      .W = X,
                      .Y = X,
                      .transposed = transposed,
                      .bias = true,
                      .strided = true,
                      .write = Write::Accumulate,
                      .dropout = dropout,
                      .dora = true});
          check_case({.N = N,
                      .I = 530,
                      .outs = {50},
                      .R = 5,
                      .X = X,
                      .W = DType::F16,
                      .Y = X,
                      .transposed = transposed,
                      .dropout = dropout,
                      .dora = true});
        }
  check_case({.N = 1040, .I = 35, .outs = {20, 30}, .R = 3, .dropout = 0.2f, .dora = true});
  check_case({.N = 20, .I = 30, .outs = {800}, .R = 3, .dropout = 0.2f, .dora = true});
}

// A panel of the scratch holds 768 rows.

TEST_CASE("linear: a rank of more than one panel") {
  for (float dropout : {0.0f, 0.25f})
    for (bool dora : {false, true})
      check_case({.N = 20, .I = 40, .outs = {30}, .R = 790, .dropout = dropout, .dora = dora});
}

// Low-rank products are added to sums in registers up to a rank of 128 (backward of all parts): on
// both sides of it, several tiles of rows and columns, whole and not, more than one panel of x.
TEST_CASE("linear: low-rank products beside several tiles") {
  for (DType X : activations())
    for (Write write : {Write::Overwrite, Write::Accumulate}) {
      for (int64_t R : {1, 31, 33, 64, 65, 128, 129}) {
        check_case({.N = 18, .I = 40, .outs = {400, 33}, .R = R, .X = X, .W = X, .Y = X,
                    .write = write});
        check_case({.N = 18, .I = 40, .outs = {50}, .R = R, .X = X, .W = X, .Y = X,
                    .write = write});
      }
      check_case({.N = 275, .I = 64, .outs = {48, 9}, .R = 17, .X = X, .W = X, .Y = X,
                  .write = write});
      for (bool dora : {false, true})
        check_case({.N = 17, .I = 800, .outs = {64}, .R = 16, .X = X, .W = X, .Y = X,
                    .write = write, .dora = dora});
    }
}

TEST_CASE("linear: parts that lie together in memory are what they are apart") {
  for (DType X : activations()) {
    INFO(name(X));
    const int64_t N = 24, I = 64;
    const Matrix x = Matrix::random(N, I, X, 1), together = Matrix::random(96, I, X, 2, 0.1),
                 dy = Matrix::random(N, 96, X, 3);
    const auto rows = [&](int64_t begin, int64_t end) {
      return LinearPart{together.tensor().rows(begin, end), false, {}, nullptr};
    };
    const std::vector<LinearPart> three = {rows(0, 64), rows(64, 80), rows(80, 96)};
    const std::vector<LinearPart> one = {rows(0, 96)};
    const auto ops = make_test_ops(2, kLimits);
    Matrix y(N, 96, X), dx(N, I, X), y_one = y, dx_one = dx;
    ops->linear(y, x, three, Write::Overwrite);
    ops->linear(y_one, x, one, Write::Overwrite);
    expect_gradient("y", y.values(), y_one.values(), X);
    ops->linear_backward(dx, dy, x, three, Write::Overwrite);
    ops->linear_backward(dx_one, dy, x, one, Write::Overwrite);
    expect_gradient("dx", dx.values(), dx_one.values(), X);
  }
}

// 256 and 258 are neighbours in bf16 (in f16 256 and 256.25): base and adapter are each rounded
// back to 256, their sum is not.
TEST_CASE("linear: a small adapter is not lost in the rounding of a larger sum") {
  const auto result = [](DType X, double base, double low_rank, Write write) {
    const int64_t N = 3, I = 8, O = 16;
    Matrix x(N, I, X), w(O, I, X), a(8, I, DType::F32), b(O, 8, DType::F32), y(N, O, X);
    const auto set_all = [](Matrix& m, double value) {
      for (int64_t r = 0; r < m.view().rows; ++r)
        for (int64_t c = 0; c < m.view().cols; ++c) m.set(r, c, value);
    };
    // x W^T = 256 + base where it is not added to 256, in two inputs that are exact in X.
    set_all(x, 1), set_all(w, 0), set_all(a, 0.125), set_all(b, low_rank / 8), set_all(y, 256);
    for (int64_t o = 0; o < O; ++o) {
      w.set(o, 0, write == Write::Overwrite ? 256 : 0);
      w.set(o, 1, base);
    }
    LoraView lora;
    lora.a = a.tensor(), lora.b = b.tensor(), lora.scale = 1;
    const LinearPart part{w.tensor(), false, {}, &lora};
    make_test_ops(2, kLimits)->linear(y, x, {&part, 1}, write);
    return y.values();
  };
  for (const Write write : {Write::Overwrite, Write::Accumulate}) {
    CHECK(result(DType::BF16, 0.75, 0.5, write) == Values(48, 258));
    if (!tests_cpu()) CHECK(result(DType::F16, 0.09375, 0.0625, write) == Values(48, 256.25));
  }
}

TEST_CASE("linear_backward: adapters only, and base only") {
  const auto ops = make_test_ops(2, kLimits);
  Setup full({.N = 20, .I = 40, .outs = {30}, .R = 8}),
      no_dx({.N = 20, .I = 40, .outs = {30}, .R = 8});
  ops->linear_backward(full.dx, full.dy, full.x, full.parts, Write::Overwrite);
  ops->linear_backward({}, no_dx.dy, no_dx.x, no_dx.parts, Write::Overwrite);
  CHECK(no_dx.da[0].same_bytes(full.da[0]));
  CHECK(no_dx.db[0].same_bytes(full.db[0]));
  Setup frozen({.N = 20, .I = 40, .outs = {30}, .R = 8});
  frozen.lora[0].da = {}, frozen.lora[0].db = {};
  ops->linear_backward(frozen.dx, frozen.dy, frozen.x, frozen.parts, Write::Overwrite);
  CHECK(frozen.dx.same_bytes(full.dx));
}
