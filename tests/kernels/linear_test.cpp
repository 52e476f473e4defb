// Ops::linear and linear_backward against the reference: layouts, storage types, parts,
// adapters, dropout, and the same bits for any number of threads.
#include "ref/linear.h"

#include <cmath>

#include "core/rng.h"
#include "cpu/gemm_bf16.h"
#include "support/catch.h"
#include "support/complex_step.h"
#include "support/kernel_case.h"
#include "support/random_tensor.h"

using namespace lema;
using namespace lema::test;

namespace {

constexpr OpsLimits kLimits = {.rows = 1200,
                               .tokens = 16,
                               .width = 1000,
                               .rank = 800,
                               .dora = true,
                               .vocab_chunk = 0,
                               .heads = 1,
                               .head_size = 8};

struct Case {
  int64_t N, I;
  std::vector<int64_t> outs;
  int64_t R = 0;
  DType X = DType::F32, W = DType::F32, Y = DType::F32;
  bool transposed = false, bias = false, strided = false;
  Write write = Write::Overwrite;
  float dropout = 0;
  bool dora = false;
  std::string str() const {
    std::string o;
    for (int64_t x : outs) o += std::to_string(x) + " ";
    return fmt::format(
        "N={} I={} O={} R={} X={} W={} Y={} transposed={} bias={} strided={} accumulate={} "
        "dropout={} dora={}",
        N, I, o, R, name(X), name(W), name(Y), transposed, bias, strided,
        write == Write::Accumulate, dropout, dora);
  }
};

Values transpose(const Values& in, int64_t rows, int64_t cols) {
  Values out(in.size());
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c)
      out[static_cast<size_t>(c * rows + r)] = in[static_cast<size_t>(r * cols + c)];
  return out;
}

// One linear with everything it owns. Index p of the vectors is a part.
struct Setup {
  Case c;
  int64_t O = 0;
  Matrix x, dy, y, dx;
  std::vector<Matrix> weight, bias, a, b, da, db, magnitude, norm, d_magnitude;
  std::vector<LoraView> lora;
  std::vector<LinearPart> parts;

  explicit Setup(const Case& in)
      : c(in),
        O(sum(in.outs)),
        x(Matrix::random(c.N, c.I, c.X, 1, 1, gap(c.I))),
        dy(Matrix::random(c.N, O, c.X, 2, 1, gap(O))),
        y(Matrix::random(c.N, O, c.Y, 3, 1, gap(O))),
        dx(Matrix::random(c.N, c.I, c.X, 4, 1, gap(c.I))) {
    for (size_t p = 0; p < c.outs.size(); ++p) add_part(p, c.outs[p]);
    for (size_t p = 0; p < c.outs.size(); ++p) {
      LinearPart part{weight[p].tensor(), c.transposed, {}, nullptr};
      if (c.bias) part.bias = bias[p].vector();
      if (c.R > 0) part.lora = &lora[p];
      parts.push_back(part);
    }
  }
  Setup(const Setup&) = delete;

  int64_t gap(int64_t cols) const { return c.strided ? cols + 3 : 0; }
  static int64_t sum(const std::vector<int64_t>& v) {
    int64_t total = 0;
    for (int64_t x : v) total += x;
    return total;
  }
  void add_part(size_t p, int64_t out) {
    const uint64_t seed = 10 * (p + 1);
    const double scale = 1 / std::sqrt(static_cast<double>(c.I));
    weight.push_back(c.transposed ? Matrix::random(c.I, out, c.W, seed, scale)
                                  : Matrix::random(out, c.I, c.W, seed, scale));
    bias.push_back(Matrix::random(1, out, c.W, seed + 1));
    if (c.R == 0) return;
    a.push_back(Matrix::random(c.R, c.I, DType::F32, seed + 2, scale));
    b.push_back(Matrix::random(out, c.R, DType::F32, seed + 3, 1));
    da.push_back(Matrix::random(c.R, c.I, DType::F32, seed + 4));
    db.push_back(Matrix::random(out, c.R, DType::F32, seed + 5));
    LoraView view;
    view.a = a.back().tensor(), view.b = b.back().tensor();
    view.da = da.back().tensor(), view.db = db.back().tensor();
    if (c.dora) {
      magnitude.push_back(Matrix::random(1, out, DType::F32, seed + 6));
      norm.push_back(Matrix::random(1, out, DType::F32, seed + 7));
      for (int64_t o = 0; o < out; ++o)  // away from zero, as lengths are
        norm.back().set(0, o, 1.5 + norm.back().values()[static_cast<size_t>(o)] / 8);
      d_magnitude.push_back(Matrix::random(1, out, DType::F32, seed + 8));
      view.magnitude = magnitude.back().vector(), view.norm = norm.back().vector();
      view.d_magnitude = d_magnitude.back().vector();
    }
    view.scale = 0.75f, view.dropout = c.dropout, view.dropout_key = 99 + p, view.first_row = 5;
    lora.push_back(view);
  }

  // The reference of part p, from operands rounded as they enter the products.
  ref::Linear<double> reference(size_t p) const {
    ref::Linear<double> r;
    r.N = c.N, r.I = c.I, r.O = c.outs[p], r.R = c.R;
    r.x = x.values();
    r.w = rounded(c.transposed ? transpose(weight[p].values(), c.I, r.O) : weight[p].values(), c.X);
    if (c.bias) r.bias = bias[p].values();
    r.mask.assign(static_cast<size_t>(c.N * c.I), 1);
    if (c.R == 0) return r;
    r.scale = static_cast<double>(lora[p].scale);
    r.a = rounded(a[p].values(), c.X), r.b = rounded(b[p].values(), c.X);
    if (c.dora) r.magnitude = magnitude[p].values(), r.norm = norm[p].values();
    for (int64_t n = 0; c.dropout > 0 && n < c.N; ++n)
      for (int64_t i = 0; i < c.I; ++i) {
        const auto index = static_cast<uint64_t>((lora[p].first_row + n) * c.I + i);
        const uint32_t word = philox(lora[p].dropout_key, RngStream::Dropout, index / 4)[index % 4];
        r.mask[static_cast<size_t>(n * c.I + i)] =
            uniform(word) >= c.dropout ? 1 / (1 - static_cast<double>(c.dropout)) : 0;
      }
    return r;
  }
};

Values columns(const Values& m, int64_t rows, int64_t stride, int64_t begin, int64_t n) {
  Values out;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = begin; i < begin + n; ++i)
      out.push_back(m[static_cast<size_t>(r * stride + i)]);
  return out;
}

Values magnitudes(Values x) {
  for (double& value : x) value = std::abs(value);
  return x;
}

// The same linear with all terms positive: its results are the sums of |terms|. With a magnitude
// the gain is larger by 2, for the terms of (g - 1) drop(x) W^T and x W^T in place of one.
ref::Linear<double> positive(ref::Linear<double> r) {
  for (auto* v : {&r.x, &r.w, &r.bias, &r.a, &r.b, &r.magnitude}) *v = magnitudes(*v);
  for (size_t o = 0; o < r.magnitude.size(); ++o) r.magnitude[o] += 2 * r.norm[o];
  return r;
}

// Sums of n terms, with h or u rounded to X between two sums (relative u of the low-rank terms;
// with a magnitude g o B or g o dy as well, and `low_rank` is what they enter), stored as `stored`.
Values bound(const Values& magnitude, const Values& low_rank, const Values& result, int64_t n,
             DType X, DType stored) {
  Values out(result.size());
  for (size_t i = 0; i < out.size(); ++i)
    out[i] = reduction_bound(n, magnitude[i]) +
             (X == DType::F32 ? 0 : rounding_bound(X, low_rank[i])) +
             2 * rounding_bound(stored, result[i]);
  return out;
}

void check_forward(const Case& c, Ops& ops) {
  Setup s(c);
  const Values before = s.y.values();
  ops.linear(s.y, s.x, s.parts, c.write);
  CHECK(s.y.gaps_intact());
  int64_t column = 0;
  for (size_t p = 0; p < s.parts.size(); ++p) {
    const auto r = s.reference(p);
    auto low_rank = positive(r);
    low_rank.w.assign(low_rank.w.size(), 0), low_rank.bias.clear();
    Values expected = r.forward();
    const Values old = columns(before, c.N, s.O, column, r.O);
    if (c.write == Write::Accumulate) expected = expected + old;
    expect_close("y of part " + std::to_string(p), columns(s.y.values(), c.N, s.O, column, r.O),
                 expected,
                 bound(positive(r).forward() + magnitudes(old), low_rank.forward(), expected,
                       c.I + c.R + 2, c.X, c.Y));
    column += r.O;
  }
}

void check_backward(const Case& c, Ops& ops) {
  Setup s(c);
  const Values dx_before = s.dx.values(), dy = s.dy.values();
  std::vector<Values> da_before, db_before, dm_before;
  for (const Matrix& m : s.da) da_before.push_back(m.values());
  for (const Matrix& m : s.db) db_before.push_back(m.values());
  for (const Matrix& m : s.d_magnitude) dm_before.push_back(m.values());
  ops.linear_backward(s.dx, s.dy, s.x, s.parts, c.write);
  CHECK(s.dx.gaps_intact());
  Values dx(s.dx.values().size(), 0), magnitude = dx, low = dx;
  if (c.write == Write::Accumulate) dx = dx_before, magnitude = magnitudes(dx_before);
  int64_t column = 0;
  const int64_t terms = c.N + c.I + s.O + c.R;
  for (size_t p = 0; p < s.parts.size(); ++p) {
    const auto r = s.reference(p);
    const Values g = columns(dy, c.N, s.O, column, r.O), g_abs = magnitudes(g);
    auto pos = positive(r);
    dx = dx + r.dx(g), magnitude = magnitude + pos.dx(g_abs);
    if (c.dora) {
      const Values dm = dm_before[p] + r.d_magnitude(g), terms_dm = pos.d_magnitude(g_abs);
      expect_close("d_magnitude of part " + std::to_string(p), s.d_magnitude[p].values(), dm,
                   bound(terms_dm + magnitudes(dm), terms_dm, dm, terms, c.X, DType::F32));
    }
    if (c.R > 0) {
      const Values da = da_before[p] + r.da(g), db = db_before[p] + r.db(g);
      const Values da_terms = pos.da(g_abs), db_terms = pos.db(g_abs);
      expect_close("da of part " + std::to_string(p), s.da[p].values(), da,
                   bound(da_terms + magnitudes(da), da_terms, da, terms, c.X, DType::F32));
      expect_close("db of part " + std::to_string(p), s.db[p].values(), db,
                   bound(db_terms + magnitudes(db), db_terms, db, terms, c.X, DType::F32));
      if (!c.dora) pos.w.assign(pos.w.size(), 0);
      low = low + pos.dx(g_abs);
    }
    column += r.O;
  }
  expect_close("dx", s.dx.values(), dx, bound(magnitude, low, dx, terms, c.X, c.X));
}

void check_case(const Case& c) {
  INFO(c.str());
  const auto ops = make_test_ops(2, kLimits);
  on_each_isa([&] {
    check_forward(c, *ops);
    check_backward(c, *ops);
  });
}

}  // namespace

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

// Past one panel of inner size (768), one block of rows (1,024), one range of gradient rows (256).
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

// Up to 16 rows: columns of whole blocks of 32 and of less, weights that AMX takes as they lie and
// others, with and without it.
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
  cpu::use_bf16_products(cpu::Bf16Products::Widened);
  check_all();
  cpu::use_bf16_products(widest);
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

// 256 and 258 are neighbours in bf16 (in f16 256 and 256.25): base and adapter are each rounded back
// to 256, their sum is not.
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
    for (int64_t N : {1, 6, 290}) {
      const Case c = {.N = N,
                      .I = 210,
                      .outs = {300, 77},
                      .R = 16,
                      .X = X,
                      .W = DType::BF16,
                      .Y = X,
                      .bias = true,
                      .dropout = 0.1f,
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

TEST_CASE("linear: wrong arguments are named") {
  const auto ops = make_test_ops(1, kLimits);
  Setup s({.N = 4, .I = 6, .outs = {5}});
  CHECK_THROWS_WITH(ops->linear(s.y, s.dy, s.parts, Write::Overwrite),
                    "linear: weight is F32 [5, 6], expected F32, BF16 or F16 [5, 5]");
  CHECK_THROWS_WITH(ops->linear(s.x, s.x, s.parts, Write::Overwrite),
                    "linear: y is F32 (4, 6), expected F32 (4, 5)");
}
