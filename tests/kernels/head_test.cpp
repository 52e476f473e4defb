// Ops::head_begin, head_chunk, head_finish and head_weight_backward against the reference, in any
// cut of the vocabulary.
#include "ref/head.h"

#include <cmath>

#include "support/catch.h"
#include "support/complex_step.h"
#include "support/kernel_case.h"
#include "support/random_tensor.h"

using namespace lema;
using namespace lema::test;

namespace {

constexpr OpsLimits kLimits = {.rows = 200,
                               .tokens = 16,
                               .width = 600,
                               .rank = 8,
                               .vocab_chunk = 50000,
                               .heads = 1,
                               .head_size = 8};

struct Case {
  int64_t N, C, V, chunk;
  DType X = DType::F32, W = DType::F32;
  double logit_scale = 3;
  bool gradient = true;
  bool sure = false;  // x points along the target's weight row
};

struct Setup {
  Case c;
  Matrix x, weight, targets, max, sum, target_logit, acc, target_rows, loss, dx, d_weight;

  explicit Setup(const Case& in)
      : c(in),
        x(Matrix::random(c.N, c.C, c.X, 1, c.logit_scale, apart(c.C, 5))),
        weight(Matrix::random(c.V, c.C, c.W, 2, 1 / std::sqrt(static_cast<double>(c.C)))),
        targets(1, c.N, DType::I32),
        max(1, c.N, DType::F32),
        sum(1, c.N, DType::F32),
        target_logit(1, c.N, DType::F32),
        acc(c.N, c.C, DType::F32),
        target_rows(c.N, c.C, c.X),
        loss(1, c.N, DType::F32),
        dx(c.N, c.C, c.X, apart(c.C, 2)),
        d_weight(Matrix::random(c.V, c.C, DType::F32, 3)) {
    for (int64_t n = 0; n < c.N; ++n)
      targets.set(0, n, static_cast<double>((n * 7919 + c.V - 1) % c.V));
    if (!c.sure) return;
    const Values w = weight.values(), t = targets.values();
    for (int64_t n = 0; n < c.N; ++n)
      for (int64_t i = 0; i < c.C; ++i)
        x.set(n, i,
              (18.0 + static_cast<double>(n)) *
                  w[static_cast<size_t>(t[static_cast<size_t>(n)]) * static_cast<size_t>(c.C) +
                    static_cast<size_t>(i)]);
  }

  void run(int threads, float grad_scale) {
    const auto ops = make_test_ops(threads, kLimits);
    HeadState state{max.vector(), sum.vector(), target_logit.vector(), {}, {}};
    if (c.gradient) state.acc = acc.tensor(), state.target_rows = target_rows.tensor();
    ops->head_begin(state);
    for (int64_t v = 0; v < c.V; v += c.chunk)
      ops->head_chunk(state, x, weight.tensor().rows(v, std::min(c.V, v + c.chunk)), v,
                      targets.vector());
    for (int64_t v = 0; c.gradient && v < c.V; v += c.chunk) {
      const int64_t end = std::min(c.V, v + c.chunk);
      ops->head_weight_backward(d_weight.tensor().rows(v, end), state, x,
                                weight.tensor().rows(v, end), v, targets.vector(), grad_scale);
    }
    ops->head_finish(loss.vector(), c.gradient ? dx.view() : MatrixView(), state, grad_scale);
    CHECK(dx.gaps_intact());
  }

  ref::Head<double> reference() const {
    ref::Head<double> r;
    r.N = c.N, r.C = c.C, r.V = c.V;
    r.x = x.values(), r.w = weight.values();
    r.w = rounded(r.w, c.X);
    for (double t : targets.values()) r.targets.push_back(static_cast<int32_t>(t));
    return r;
  }
};

// A logit is a sum of C terms, off by e_n = bound(C, max_v sum |x w|) at most: so is the loss,
// twice (lse and target), and a probability by the factor 2 e_n. dx = sum over v other than the
// target of p_v (w_v - w_target): V such rows; in bf16 each p_v is rounded (2^-8) as well. dw of a
// vocabulary row is a sum over n of such probabilities times x.
void check_case(const Case& c) {
  INFO(fmt::format("N={} C={} V={} chunk={} X={} W={} scale={}", c.N, c.C, c.V, c.chunk, name(c.X),
                   name(c.W), c.logit_scale));
  const Setup s(c);
  const double grad_scale = 0.5;
  const ref::Head<double> r = s.reference();
  const Values loss = r.loss(), dx = r.dx(Values(static_cast<size_t>(c.N), grad_scale));
  Values loss_bound, dx_bound, logit_bound;
  for (int64_t n = 0; n < c.N; ++n) {
    double largest = 0;
    for (int64_t v = 0; v < c.V; ++v) {
      double terms = 0;
      for (int64_t i = 0; i < c.C; ++i)
        terms +=
            std::abs(r.x[static_cast<size_t>(n * c.C + i)] * r.w[static_cast<size_t>(v * c.C + i)]);
      largest = std::max(largest, terms);
    }
    const double logit = reduction_bound(c.C, largest);
    logit_bound.push_back(logit);
    loss_bound.push_back(2 * logit + reduction_bound(c.V, 1) +
                         4 * unit_roundoff(DType::F32) * std::abs(loss[static_cast<size_t>(n)]));
    const auto z = r.logits(n);
    const auto target = static_cast<size_t>(r.targets[static_cast<size_t>(n)]);
    const double lse = loss[static_cast<size_t>(n)] + z[target];
    for (int64_t i = 0; i < c.C; ++i) {
      const double target_term =
          std::abs(r.w[target * static_cast<size_t>(c.C) + static_cast<size_t>(i)]);
      double terms = 0;
      for (int64_t v = 0; v < c.V; ++v)
        if (static_cast<size_t>(v) != target)
          terms += std::exp(z[static_cast<size_t>(v)] - lse) *
                   (target_term + std::abs(r.w[static_cast<size_t>(v * c.C + i)]));
      const double rounding = c.X == DType::F32 ? 0 : unit_roundoff(c.X) * terms;
      dx_bound.push_back(grad_scale *
                             ((2 * logit) * terms + reduction_bound(c.V, terms) + rounding) +
                         2 * rounding_bound(c.X, dx[static_cast<size_t>(n * c.C + i)]));
    }
  }
  const Values before = s.d_weight.values();
  const Values dw = before + r.dw(Values(static_cast<size_t>(c.N), grad_scale));
  Values dw_bound(dw.size(), 0);
  for (int64_t n = 0; n < c.N; ++n) {
    const auto z = r.logits(n);
    const auto target = static_cast<size_t>(r.targets[static_cast<size_t>(n)]);
    const double lse = loss[static_cast<size_t>(n)] + z[target];
    const double relative = 2 * logit_bound[static_cast<size_t>(n)] + reduction_bound(c.V, 1) +
                            reduction_bound(c.N, 1) +
                            (c.X == DType::F32 ? 0 : unit_roundoff(c.X));
    for (size_t k = 0; k < dw.size(); ++k) {
      const auto v = k / static_cast<size_t>(c.C), i = k % static_cast<size_t>(c.C);
      const double p = v == target ? -std::expm1(z[v] - lse) : std::exp(z[v] - lse);
      dw_bound[k] += relative * grad_scale * p *
                     std::abs(r.x[static_cast<size_t>(n * c.C) + i]);
    }
  }
  for (size_t k = 0; k < dw.size(); ++k)
    dw_bound[k] += reduction_bound(c.N + 1, std::abs(before[k]) + std::abs(dw[k]));
  on_each_isa([&] {
    Setup found(c);
    found.run(2, static_cast<float>(grad_scale));
    expect_close("loss", found.loss.values(), loss, loss_bound);
    if (!c.gradient) return;
    expect_close("dx", found.dx.values(), dx, dx_bound);
    expect_close("dw", found.d_weight.values(), dw, dw_bound);
  });
}

}  // namespace

TEST_CASE("the reference head's gradient is its derivative") {
  ref::Head<Complex> r;
  r.N = 3, r.C = 4, r.V = 6, r.targets = {5, 0, 3};
  r.w = complexes(Matrix::random(6, 4, DType::F32, 2).values());
  const Values x = Matrix::random(3, 4, DType::F32, 1).values(),
               g = Matrix::random(1, 3, DType::F32, 3).values();
  const auto loss = [&](const Complexes& point) {
    r.x = point;
    return r.loss();
  };
  const Values expected = complex_step_gradient(loss, x, g);
  Values found;
  r.x = complexes(x);
  for (const Complex& value : r.dx(complexes(g))) found.push_back(value.real());
  expect_same_gradient("dx", found, expected);
  const Values w = Matrix::random(6, 4, DType::F32, 2).values();
  const auto loss_of_weights = [&](const Complexes& point) {
    r.w = point;
    return r.loss();
  };
  const Values expected_dw = complex_step_gradient(loss_of_weights, w, g);
  r.w = complexes(w);
  Values found_dw;
  for (const Complex& value : r.dw(complexes(g))) found_dw.push_back(value.real());
  expect_same_gradient("dw", found_dw, expected_dw);
}

TEST_CASE("head: odd shapes and chunks") {
  for (int64_t N : {1, 7, 65})
    for (int64_t C : {1, 33, 64})
      for (int64_t V : {1, 49, 131}) check_case({.N = N, .C = C, .V = V, .chunk = 40});
  check_case({.N = 70, .C = 96, .V = 2100, .chunk = 2500});
  check_case({.N = 70, .C = 96, .V = 2100, .chunk = 777});
  check_case({.N = 5, .C = 600, .V = 900, .chunk = 899});
  check_case({.N = 130, .C = 200, .V = 390, .chunk = 390});
}

TEST_CASE("head: storage types") {
  for (DType X : activations())
    for (DType W : {DType::F32, DType::BF16, DType::F16})
      check_case({.N = 20, .C = 50, .V = 300, .chunk = 128, .X = X, .W = W});
}

TEST_CASE("head: large logits neither overflow nor lose the loss") {
  check_case({.N = 12, .C = 40, .V = 500, .chunk = 100, .logit_scale = 200});
}

// Sums over the vocabulary are sums of parts: added one by one, the error would be 1e-6.
TEST_CASE("head: a wide, flat distribution is summed without drift") {
  Setup s({.N = 8, .C = 16, .V = 50000, .chunk = 50000, .logit_scale = 0.5});
  for (int64_t v = 0; v < 50000; ++v) s.weight.set(v, v % 16, 2);
  s.run(2, 1);
  const Values expected = s.reference().dx(Values(8, 1.0));
  CHECK(std::sqrt(nmse(s.dx.values(), expected)) < 4e-7);
}

// 1 - p of the target goes down to about 1e-7: as a difference from 1 it would have no digit left.
TEST_CASE("head: a row that the model is sure of keeps its gradient") {
  for (DType X : activations())
    check_case({.N = 6, .C = 64, .V = 300, .chunk = 128, .X = X, .sure = true});
}

TEST_CASE("head: the gradient of the last columns alone is theirs") {
  for (DType X : activations())
    for (int64_t K : {1, 33, 70}) {
      Setup s({.N = 150, .C = 70, .V = 300, .chunk = 300, .X = X});
      s.run(2, 0.5f);
      Matrix last = Matrix::random(300, K, DType::F32, 4);
      const Values before = last.values(), full_before = Setup(s.c).d_weight.values();
      const auto ops = make_test_ops(2, kLimits);
      const HeadState state{s.max.vector(), s.sum.vector(), s.target_logit.vector(), {}, {}};
      ops->head_weight_backward(last.tensor(), state, s.x, s.weight.tensor(), 0,
                                s.targets.vector(), 0.5f);
      const Values found = last.values(), full = s.d_weight.values();
      for (int64_t v = 0; v < 300; ++v)
        for (int64_t k = 0; k < K; ++k) {
          const auto i = static_cast<size_t>(v * K + k);
          const auto j = static_cast<size_t>(v * 70 + 70 - K + k);
          CHECK(std::abs(found[i] - before[i] - (full[j] - full_before[j])) < 1e-5);
        }
    }
}

TEST_CASE("head: without a gradient") {
  check_case({.N = 9, .C = 40, .V = 500, .chunk = 100, .gradient = false});
}

TEST_CASE("head: the same bits with 1, 2 and 3 threads") {
  for (DType X : activations()) {
    Setup one({.N = 150, .C = 70, .V = 1000, .chunk = 600, .X = X, .W = DType::BF16});
    one.run(1, 1);
    for (int threads : {2, 3}) {
      Setup many(one.c);
      many.run(threads, 1);
      CHECK(many.loss.same_bytes(one.loss));
      CHECK(many.dx.same_bytes(one.dx));
      CHECK(many.d_weight.same_bytes(one.d_weight));
    }
  }
}

TEST_CASE("head: a NaN in x reaches the loss and the gradient of its row only") {
  Setup s({.N = 4, .C = 30, .V = 100, .chunk = 60});
  s.x.set(2, 11, NAN);
  s.run(1, 1);
  const Values loss = s.loss.values(), dx = s.dx.values();
  for (size_t n = 0; n < 4; ++n) {
    CHECK(std::isnan(loss[n]) == (n == 2));
    CHECK(std::isnan(dx[n * 30]) == (n == 2));
  }
}
