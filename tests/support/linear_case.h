// A linear with all that it owns, and Ops::linear and linear_backward held against the reference.
// Used by linear_test and linear_adapters_test.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "core/rng.h"
#include "ref/linear.h"
#include "support/catch.h"
#include "support/complex_step.h"
#include "support/kernel_case.h"
#include "support/random_tensor.h"

namespace lema::test::linear {

inline constexpr OpsLimits kLimits = {.rows = 1200,
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

inline Values transpose(const Values& in, int64_t rows, int64_t cols) {
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

inline Values columns(const Values& m, int64_t rows, int64_t stride, int64_t begin, int64_t n) {
  Values out;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = begin; i < begin + n; ++i)
      out.push_back(m[static_cast<size_t>(r * stride + i)]);
  return out;
}

inline Values magnitudes(Values x) {
  for (double& value : x) value = std::abs(value);
  return x;
}

// The same linear with all terms positive: its results are the sums of |terms|. With a magnitude
// the gain is larger by 2, for the terms of (g - 1) drop(x) W^T and x W^T in place of one.
inline ref::Linear<double> positive(ref::Linear<double> r) {
  for (auto* v : {&r.x, &r.w, &r.bias, &r.a, &r.b, &r.magnitude}) *v = magnitudes(*v);
  for (size_t o = 0; o < r.magnitude.size(); ++o) r.magnitude[o] += 2 * r.norm[o];
  return r;
}

// Sums of n terms, with h or u rounded to X between two sums (relative u of the low-rank terms;
// with a magnitude g o B or g o dy as well, and `low_rank` is what they enter), stored as `stored`.
inline Values bound(const Values& magnitude, const Values& low_rank, const Values& result,
                    int64_t n, DType X, DType stored) {
  Values out(result.size());
  for (size_t i = 0; i < out.size(); ++i)
    out[i] = reduction_bound(n, magnitude[i]) +
             (X == DType::F32 ? 0 : rounding_bound(X, low_rank[i])) +
             2 * rounding_bound(stored, result[i]);
  return out;
}

inline void check_forward(const Case& c, Ops& ops) {
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

inline void check_backward(const Case& c, Ops& ops) {
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

inline void check_case(const Case& c) {
  INFO(c.str());
  const auto ops = make_test_ops(2, kLimits);
  on_each_isa([&] {
    check_forward(c, *ops);
    check_backward(c, *ops);
  });
}

}  // namespace lema::test::linear
