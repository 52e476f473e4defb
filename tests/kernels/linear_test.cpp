// Ops::linear and linear_backward against the reference: shapes, layouts, storage types, and the
// same bits for any number of threads.
#include "cpu/gemm_bf16.h"
#include "support/linear_case.h"

using namespace lema;
using namespace lema::test;
using namespace lema::test::linear;

TEST_CASE("the reference's gradients are its derivatives") {
  ref::Linear<Complex> r;
  r.N = 3, r.I = 4, r.O = 5, r.R = 2, r.scale = 0.7;
  uint64_t seed = 1;
  const auto random = [&](int64_t rows, int64_t cols) {
    return Matrix::random(rows, cols, DType::F32, seed++).values();
  };
  const Values x = random(3, 4), a = random(2, 4), b = random(5, 2), g = random(3, 5);
  r.x = complexes(x), r.a = complexes(a), r.b = complexes(b);
  r.w = complexes(random(5, 4)), r.bias = complexes(random(1, 5));
  r.mask = {2, 0, 2, 2, 0, 2, 2, 2, 2, 0, 0, 2};
  const Complexes upstream = complexes(g);
  // The forward as a function of one of its members, the others as they are.
  const auto of = [&](Complexes ref::Linear<Complex>::*member) {
    return [&r, member](const Complexes& point) {
      ref::Linear<Complex> moved = r;
      moved.*member = point;
      return moved.forward();
    };
  };
  const auto real = [](const Complexes& values) {
    Values out;
    for (const Complex& value : values) out.push_back(value.real());
    return out;
  };
  using L = ref::Linear<Complex>;
  const Values magnitude = random(1, 5);
  for (bool dora : {false, true}) {
    if (dora) r.magnitude = complexes(magnitude), r.norm = complexes({1.5, 2, 0.5, 3, 1});
    expect_same_gradient("dx", real(r.dx(upstream)), complex_step_gradient(of(&L::x), x, g));
    expect_same_gradient("da", real(r.da(upstream)), complex_step_gradient(of(&L::a), a, g));
    expect_same_gradient("db", real(r.db(upstream)), complex_step_gradient(of(&L::b), b, g));
  }
  expect_same_gradient("d_magnitude", real(r.d_magnitude(upstream)),
                       complex_step_gradient(of(&L::magnitude), magnitude, g));
}

TEST_CASE("linear: odd shapes in f32") {
  for (int64_t N : {1, 2, 7, 33, 128, 129})
    for (int64_t O : {1, 7, 48, 193})
      for (int64_t I : {1, 33, 257}) check_case({.N = N, .I = I, .outs = {O}});
}

TEST_CASE("linear: every storage type and layout") {
  for (DType X : activations())
    for (DType W : {DType::F32, DType::BF16, DType::F16})
      for (bool transposed : {false, true})
        for (int64_t N : {1, 5, 37}) {
          check_case({.N = N,
                      .I = 67,
                      .outs = {50},
                      .R = 4,
                      .X = X,
                      .W = W,
                      .Y = X,
                      .transposed = transposed,
                      .bias = true,
                      .strided = true});
          check_case({.N = N,
                      .I = 67,
                      .outs = {50},
                      .X = X,
                      .W = W,
                      .Y = DType::F32,
                      .transposed = transposed,
                      .bias = true,
                      .write = Write::Accumulate});
        }
}

TEST_CASE("linear: more than one block in every direction") {
  for (DType X : activations()) {
    check_case({.N = 20,
                .I = 800,
                .outs = {900},
                .R = 3,
                .X = X,
                .W = X,
                .Y = X,
                .write = Write::Accumulate});
    check_case(
        {.N = 1100, .I = 35, .outs = {20, 30}, .R = 3, .X = X, .W = X, .Y = X, .dropout = 0.2f});
    check_case({.N = 1050, .I = 20, .outs = {35}, .R = 3, .X = X, .W = X, .Y = X, .bias = true});
  }
}

// Up to 16 rows: columns of whole blocks of 32 and of less, weights that units for pairs take as
// they lie and others, with each such unit and without.
TEST_CASE("linear: few rows") {
  const auto check_all = [] {
    for (DType X : activations())
      for (DType W : {DType::BF16, DType::F32})
        for (int64_t N : {1, 2, 9, 16})
          for (bool transposed : {false, true})
            check_case({.N = N,
                        .I = 160,
                        .outs = {96, 33, 32},
                        .R = 36,
                        .X = X,
                        .W = W,
                        .Y = X,
                        .transposed = transposed,
                        .bias = true,
                        .strided = true,
                        .write = Write::Accumulate});
  };
  check_all();
  if (!tests_cpu()) return;
  const cpu::Bf16Products widest = cpu::widest_bf16_products();
  for (const auto products : {cpu::Bf16Products::Avx512, cpu::Bf16Products::Widened}) {
    if (products >= widest) continue;
    cpu::use_bf16_products(products);
    check_all();
  }
  cpu::use_bf16_products(widest);
}

// A kernel may be chosen by the class of the rows' number (ops.h): every place in a class.
TEST_CASE("linear: every number of rows") {
  for (int64_t N = 1; N <= 300; N < 34 ? ++N : N += 31)
    for (DType X : activations())
      check_case({.N = N, .I = 144, .outs = {96, 40}, .R = 16, .X = X, .W = X, .Y = X});
}

TEST_CASE("linear: rows of whole 16-byte units") {
  for (DType X : activations())
    for (DType W : {DType::F32, DType::BF16, DType::F16})
      for (float dropout : {0.0f, 0.25f})
        check_case({.N = 72,
                    .I = 528,
                    .outs = {192, 64, 64},
                    .R = 16,
                    .X = X,
                    .W = W,
                    .Y = X,
                    .bias = dropout > 0,
                    .dropout = dropout});
  check_case(
      {.N = 40, .I = 64, .outs = {96}, .X = DType::BF16, .W = DType::F16, .transposed = true});
  check_case({.N = 40,
              .I = 64,
              .outs = {96},
              .R = 8,
              .X = DType::BF16,
              .W = DType::BF16,
              .Y = DType::BF16,
              .transposed = true,
              .write = Write::Accumulate});
}

TEST_CASE("linear: a product is rounded once, with what it is added to") {
  const auto result = [](DType X, double small, double before) {
    const int64_t N = 3, I = 8, O = 16;
    Matrix x(N, I, X), w(O, I, X), y(N, O, X);
    for (int64_t i = 0; i < I; ++i) {
      for (int64_t n = 0; n < N; ++n) x.set(n, i, 1);
      for (int64_t o = 0; o < O; ++o) w.set(o, i, i == 0 ? 256 : i == 1 ? small : 0);
    }
    for (int64_t n = 0; n < N; ++n)
      for (int64_t o = 0; o < O; ++o) y.set(n, o, before);
    const LinearPart part{w.tensor(), false, {}, nullptr};
    make_test_ops(2, kLimits)->linear(y, x, {&part, 1}, Write::Accumulate);
    return y.values();
  };
  CHECK(result(DType::BF16, 0.5, 0.75) == Values(48, 258));
  if (!tests_cpu()) CHECK(result(DType::F16, 0.0625, 0.09375) == Values(48, 256.25));
}

TEST_CASE("linear: the same bits with 1, 2 and 3 threads") {
  for (DType X : activations())
    for (int64_t N : {1, 6, 12, 290}) {
      const bool in_pairs = N == 12;  // linear_few takes what has no dropout
      const Case c = {.N = N,
                      .I = in_pairs ? 288 : 210,
                      .outs = {300, 77},
                      .R = 16,
                      .X = X,
                      .W = DType::BF16,
                      .Y = X,
                      .bias = true,
                      .dropout = in_pairs ? 0 : 0.1f,
                      .dora = N == 290};
      Setup one(c);
      const auto ops1 = make_test_ops(1, kLimits);
      ops1->linear(one.y, one.x, one.parts, Write::Overwrite);
      ops1->linear_backward(one.dx, one.dy, one.x, one.parts, Write::Overwrite);
      for (int threads : {2, 3}) {
        Setup many(c);
        const auto ops = make_test_ops(threads, kLimits);
        ops->linear(many.y, many.x, many.parts, Write::Overwrite);
        ops->linear_backward(many.dx, many.dy, many.x, many.parts, Write::Overwrite);
        CHECK(many.y.same_bytes(one.y));
        CHECK(many.dx.same_bytes(one.dx));
        for (size_t p = 0; p < 2; ++p) {
          CHECK(many.da[p].same_bytes(one.da[p]));
          CHECK(many.db[p].same_bytes(one.db[p]));
          if (c.dora) CHECK(many.d_magnitude[p].same_bytes(one.d_magnitude[p]));
        }
      }
    }
}

TEST_CASE("linear: wrong arguments are named") {
  const auto ops = make_test_ops(1, kLimits);
  Setup s({.N = 4, .I = 6, .outs = {5}});
  CHECK_THROWS_WITH(ops->linear(s.y, s.dy, s.parts, Write::Overwrite),
                    "linear: weight is F32 [5, 6], expected F32, BF16 or F16 [5, 5]");
  CHECK_THROWS_WITH(ops->linear(s.x, s.x, s.parts, Write::Overwrite),
                    "linear: y is F32 (4, 6), expected F32 (4, 5)");
}
