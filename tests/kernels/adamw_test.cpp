// Ops::adamw, squared_norm and fill against the reference and against exact sums.
#include "ref/adamw.h"

#include <cmath>

#include "support/catch.h"
#include "support/kernel_case.h"
#include "support/random_tensor.h"

using namespace lema;
using namespace lema::test;

namespace {

std::unique_ptr<Ops> ops_with(int threads) {
  return make_test_ops(threads, {.rows = 1,
                                 .tokens = 1,
                                 .width = 1,
                                 .rank = 1,
                                 .vocab_chunk = 1,
                                 .heads = 1,
                                 .head_size = 8});
}

struct Parameters {
  Matrix param, moment1, moment2, norm;
  explicit Parameters(int64_t n)
      : param(Matrix::random(1, n, DType::F32, 1)),
        moment1(1, n, DType::F32),
        moment2(1, n, DType::F32),
        norm(1, 1, DType::F32) {
    for (int64_t i = 0; i < n; ++i) moment1.set(0, i, 0), moment2.set(0, i, 0);
  }
};

// Five updates with fresh gradients; the f32 moments are carried from step to step on both sides.
void check_steps(int64_t n, AdamWStep step, int threads) {
  INFO(fmt::format("n={} weight_decay={} clip={} grad_scale={}", n, step.weight_decay, step.clip,
                   step.grad_scale));
  const auto ops = ops_with(threads);
  Parameters p(n);
  for (step.step = 1; step.step <= 5; ++step.step) {
    const Matrix grad = Matrix::random(1, n, DType::F32, 10 + static_cast<uint64_t>(step.step));
    Values param = p.param.values(), m1 = p.moment1.values(), m2 = p.moment2.values();
    double squares = 0;
    for (double g : grad.values()) squares += g * g;
    ops->squared_norm(p.norm.vector(), grad.vector());
    ops->adamw(p.param.vector(), grad.vector(), p.moment1.vector(), p.moment2.vector(),
               step.clip > 0 ? p.norm.vector() : TensorView(), step);

    const double factor = ref::gradient_factor(
        std::sqrt(squares), static_cast<double>(step.grad_scale), static_cast<double>(step.clip));
    const ref::AdamW<double> reference = {step.lr,  step.beta1,        step.beta2,
                                          step.eps, step.weight_decay, static_cast<int>(step.step)};
    const Values g = grad.values();
    Values param_bound, m1_bound, m2_bound;
    const double u = unit_roundoff(DType::F32);
    for (size_t i = 0; i < g.size(); ++i) {
      const double update_size = 4 * static_cast<double>(step.lr);
      const double m1_before = std::abs(m1[i]), gradient = std::abs(factor * g[i]),
                   before = param[i];
      reference.update(param[i], factor * g[i], m1[i], m2[i]);
      // Four to six roundings each; m1's terms may cancel, so its bound is on their magnitudes. An
      // update is at most some lr, and its relative error is that of m1 / sqrt(m2) with m1's
      // cancellation in it.
      const double m1_error = 8 * u * (m1_before + gradient);
      m1_bound.push_back(m1_error + kTiny);
      m2_bound.push_back(8 * u * m2[i] + kTiny);
      param_bound.push_back(4 * u * std::abs(before) + 16 * u * update_size +
                            static_cast<double>(step.lr) * 10 * m1_error /
                                (std::sqrt(m2[i]) + 1e-8));
    }
    expect_close("moment1", p.moment1.values(), m1, m1_bound);
    expect_close("moment2", p.moment2.values(), m2, m2_bound);
    expect_close("param", p.param.values(), param, param_bound);
  }
}

}  // namespace

TEST_CASE("adamw: sizes, decay, scale and clip") {
  on_each_isa([] {
    for (int64_t n : {1, 7, 33, 16384, 16385}) check_steps(n, {.lr = 1e-3f}, 2);
    check_steps(100, {.lr = 1e-2f, .weight_decay = 0.1f}, 1);
    check_steps(100, {.lr = 1e-3f, .grad_scale = 0.125f, .clip = 0.5f}, 1);
    check_steps(100, {.lr = 1e-3f, .grad_scale = 0.125f, .clip = 1e6f},
                1);  // a norm below the clip changes nothing
  });
}

TEST_CASE("adamw: a NaN gradient norm shows in every parameter") {
  const auto ops = ops_with(1);
  Parameters p(5);
  const Matrix grad = Matrix::random(1, 5, DType::F32, 3);
  p.norm.set(0, 0, NAN);
  ops->adamw(p.param.vector(), grad.vector(), p.moment1.vector(), p.moment2.vector(),
             p.norm.vector(), {.lr = 1e-3f, .clip = 1});
  for (double x : p.param.values()) CHECK(std::isnan(x));
}

TEST_CASE("squared_norm: value, and the same bits for any number of threads") {
  for (int64_t n : {1, 7, 1024, 1025, 16384, 100000, 5000003}) {
    const Matrix x = Matrix::random(1, n, DType::F32, 4, 3);
    double expected = 0;
    for (double v : x.values()) expected += v * v;
    on_each_isa([&] {
      Matrix one(1, 1, DType::F32), three(1, 1, DType::F32);
      ops_with(1)->squared_norm(one.vector(), x.vector());
      ops_with(3)->squared_norm(three.vector(), x.vector());
      CHECK(three.same_bytes(one));
      expect_close("squared norm", one.values(), {expected}, reduction_bound(1024, expected));
    });
  }
}

TEST_CASE("fill: every float dtype and no neighbour") {
  const auto ops = ops_with(2);
  on_each_isa([&] {
    for (DType dtype : {DType::F32, DType::BF16, DType::F16})
      for (int64_t n : {1, 1023, 20000}) {
        Matrix m(1, n, dtype, n + 8);
        ops->fill({m.view().data, dtype, {n}}, -1.5f);
        CHECK(m.values() == Values(static_cast<size_t>(n), -1.5));
        CHECK(m.gaps_intact());
      }
  });
}
