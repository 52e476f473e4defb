// Attention: the reference's backward against the complex step, the kernel against the
// reference.
#include "ref/attention.h"

#include "cpu/gemm_bf16.h"
#include "support/kernel_case.h"

namespace lema::test {
namespace {

struct Case {
  int64_t H, Hkv, D;
  std::vector<std::array<size_t, 2>> lengths;  // q_len, kv_len of each packed sequence
  int64_t window = 0;
  bool odd_rows = false;  // no row of q, k, v is aligned
};

std::string describe(const Case& c, DType X) {
  std::string text = fmt::format("{} H {}/{} D {} window {}", name(X), c.H, c.Hkv, c.D, c.window);
  for (const auto& [q_len, kv_len] : c.lengths) text += fmt::format(" {}:{}", q_len, kv_len);
  return text;
}

// All tensors of a call; q, k and v are columns of one wider matrix where the lengths allow it.
struct Call {
  ref::Attention shape;
  int64_t Nq = 0, Nkv = 0;
  Matrix sequences, q, k, v, d_o;
  AttentionShape attention;

  Call(const Case& c, DType X)
      : shape{static_cast<size_t>(c.H),
              static_cast<size_t>(c.Hkv),
              static_cast<size_t>(c.D),
              1 / std::sqrt(static_cast<double>(c.D)),
              {},
              static_cast<size_t>(c.window)},
        sequences(static_cast<int64_t>(c.lengths.size()), 4, DType::I32),
        q(0, 0, X),
        k(0, 0, X),
        v(0, 0, X),
        d_o(0, 0, X),
        attention{c.H, c.Hkv, c.D, static_cast<float>(shape.scale), c.window} {
    for (size_t s = 0; s < c.lengths.size(); ++s) {
      const auto [q_len, kv_len] = c.lengths[s];
      const std::array<size_t, 4> row = {static_cast<size_t>(Nq), q_len, static_cast<size_t>(Nkv),
                                         kv_len};
      shape.sequences.push_back(row);
      for (size_t i = 0; i < 4; ++i)
        sequences.set(static_cast<int64_t>(s), static_cast<int64_t>(i),
                      static_cast<double>(row[i]));
      Nq += static_cast<int64_t>(q_len);
      Nkv += static_cast<int64_t>(kv_len);
    }
    const auto stride = [&](int64_t width, int64_t odd) {
      return c.odd_rows ? width + odd : apart(width, odd);
    };
    q = Matrix::random(Nq, c.H * c.D, X, 1, 1, stride(c.H * c.D, 5));
    k = Matrix::random(Nkv, c.Hkv * c.D, X, 2, 1, stride(c.Hkv * c.D, 3));
    v = Matrix::random(Nkv, c.Hkv * c.D, X, 3, 1, stride(c.Hkv * c.D, 7));
    d_o = Matrix::random(Nq, c.H * c.D, X, 4);
  }
};

// The error of a score, 4 u sqrt(D) sum |q k| scale, is relative in P; so |o| is off by twice that
// share of sum P |v|. Units that multiply bf16 take P in bf16: u of bf16 more of each term.
Values output_bound(const Call& c, const Values& expected, DType X) {
  Values magnitudes = c.v.values(), lse;
  for (double& x : magnitudes) x = std::abs(x);
  Values sum = ref::attention(lse, c.q.values(), c.k.values(), magnitudes, c.shape);
  const Values q = c.q.values(), k = c.k.values();
  Values bound = elementwise_bound(expected, X);
  const bool in_f32 = X == DType::F32 || (tests_cpu() && !cpu::packs_pairs(X, X));
  const double rounding = in_f32 ? 0 : unit_roundoff(X);
  c.shape.each([&](size_t n, size_t first, size_t keys, size_t h) {
    double largest = 1;
    for (size_t j = first; j < first + keys; ++j) {
      double score = 0;
      for (size_t d = 0; d < c.shape.D; ++d)
        score += c.shape.scale * std::abs(q[c.shape.q(n, h) + d] * k[c.shape.kv(j, h) + d]);
      largest = std::max(largest, score);
    }
    const auto terms = static_cast<int64_t>(std::max(keys, c.shape.D));
    for (size_t d = 0; d < c.shape.D; ++d)
      bound[c.shape.q(n, h) + d] += reduction_bound(terms, 2 * largest * sum[c.shape.q(n, h) + d]) +
                                    rounding * sum[c.shape.q(n, h) + d];
  });
  return bound;
}

void check_forward(const Case& c, DType X) {
  INFO(describe(c, X));
  const Call call(c, X);
  Values lse;
  const Values expected =
      ref::attention(lse, call.q.values(), call.k.values(), call.v.values(), call.shape);
  const auto run = [&](Ops& ops, const Matrix& o, const TensorView& lse_out) {
    ops.attention(o, lse_out, call.q, call.k, call.v, call.sequences.tensor(), call.attention);
  };
  const Matrix empty(call.Nq, c.H * c.D, X, apart(c.H * c.D, 4));
  const Matrix o = result_of(empty, [&](Ops& ops, const Matrix& out) { run(ops, out, {}); });
  expect_close("o", o.values(), expected, output_bound(call, expected, X));
  const Matrix lse_found =
      result_of(Matrix(call.Nq, c.H, DType::F32), [&](Ops& ops, const Matrix& out) {
        Matrix same = empty;
        run(ops, same, out.tensor());
        CHECK(same.same_bytes(o));
      });
  expect_close("lse", lse_found.values(), lse, 2e-6 * std::sqrt(static_cast<double>(c.D)) + 2e-6);
}

void check_backward(const Case& c, DType X) {
  INFO(describe(c, X));
  const Call call(c, X);
  Values lse_ref, dq, dk, dv;
  const Values o_ref =
      ref::attention(lse_ref, call.q.values(), call.k.values(), call.v.values(), call.shape);
  ref::attention_backward(dq, dk, dv, call.d_o.values(), call.q.values(), call.k.values(),
                          call.v.values(), call.shape);
  Matrix o(call.Nq, c.H * c.D, X), lse(call.Nq, c.H, DType::F32);
  for (size_t i = 0; i < o_ref.size(); ++i)
    store(o.view().data, X, static_cast<int64_t>(i), o_ref[i]);
  for (size_t i = 0; i < lse_ref.size(); ++i)
    store(lse.view().data, DType::F32, static_cast<int64_t>(i), lse_ref[i]);

  const std::array<Matrix, 3> empty = {Matrix(call.Nq, c.H * c.D, X, apart(c.H * c.D, 2)),
                                       Matrix(call.Nkv, c.Hkv * c.D, X, apart(c.Hkv * c.D, 2)),
                                       Matrix(call.Nkv, c.Hkv * c.D, X)};
  const std::array<const Values*, 3> expected = {&dq, &dk, &dv};
  const std::array<const char*, 3> names = {"dq", "dk", "dv"};
  for (size_t which = 0; which < 3; ++which) {
    const Matrix found = result_of(empty[which], [&](Ops& ops, const Matrix& out) {
      std::array<Matrix, 3> all = empty;
      std::array<MatrixView, 3> views = {all[0], all[1], all[2]};
      views[which] = out;
      ops.attention_backward(views[0], views[1], views[2], call.d_o, o, lse.tensor(), call.q,
                             call.k, call.v, call.sequences.tensor(), call.attention);
    });
    double energy = 0;
    for (const double x : *expected[which]) energy += x * x;
    if (energy > 0) {
      expect_gradient(names[which], found.values(), *expected[which], X);
    } else {  // one key: its probability is 1 whatever q is
      expect_close(names[which], found.values(), *expected[which], X == DType::F32 ? 2e-5 : 0.1);
    }
  }
}

}  // namespace

TEST_CASE("attention: the reference backward is the derivative of the reference forward") {
  const Case c{4, 2, 3, {{4, 4}, {1, 1}, {2, 2}}, GENERATE(int64_t{0}, int64_t{2})};
  const Call call(c, DType::F32);
  const Values q = call.q.values(), k = call.k.values(), v = call.v.values(),
               d_o = call.d_o.values();
  Values dq, dk, dv;
  ref::attention_backward(dq, dk, dv, d_o, q, k, v, call.shape);
  Complexes lse;
  const auto of_q = [&](const Complexes& z) {
    return ref::attention(lse, z, complexes(k), complexes(v), call.shape);
  };
  const auto of_k = [&](const Complexes& z) {
    return ref::attention(lse, complexes(q), z, complexes(v), call.shape);
  };
  const auto of_v = [&](const Complexes& z) {
    return ref::attention(lse, complexes(q), complexes(k), z, call.shape);
  };
  expect_same_gradient("dq", dq, complex_step_gradient(of_q, q, d_o));
  expect_same_gradient("dk", dk, complex_step_gradient(of_k, k, d_o));
  expect_same_gradient("dv", dv, complex_step_gradient(of_v, v, d_o));
}

TEST_CASE("attention: the forward is the reference") {
  on_each_isa([] {
    for (const DType X : activations())
      for (const Case& c : std::vector<Case>{{1, 1, 1, {{1, 1}}},
                                             {2, 1, 7, {{7, 7}, {1, 1}, {33, 33}}},
                                             {7, 1, 16, {{31, 31}, {3, 40}}},
                                             {3, 3, 64, {{64, 64}, {65, 65}, {1, 129}, {1, 64}}},
                                             {9, 3, 64, {{1, 200}, {1, 1}, {5, 70}, {130, 130}}},
                                             {2, 2, 80, {{33, 100}}},
                                             {2, 1, 80, {{90, 90}, {7, 133}}, 0, true},
                                             {4, 2, 96, {{67, 67}}},
                                             {7, 1, 128, {{1, 65}, {2, 130}}},
                                             {2, 1, 256, {{63, 66}}},
                                             {2, 1, 144, {{70, 70}}},
                                             {1, 1, 200, {{33, 130}}},
                                             {2, 1, 8, {{70, 70}, {9, 9}}, 1},
                                             {3, 1, 16, {{65, 65}, {2, 40}, {200, 200}}, 5},
                                             {2, 2, 64, {{130, 130}, {1, 129}, {5, 200}}, 64},
                                             {7, 1, 32, {{30, 150}, {1, 99}, {180, 180}}, 67},
                                             {2, 1, 16, {{40, 40}}, 40}})
        check_forward(c, X);
  });
}

TEST_CASE("attention: the backward is the reference") {
  on_each_isa([] {
    for (const DType X : activations())
      for (const Case& c : std::vector<Case>{{1, 1, 1, {{5, 5}}},
                                             {2, 2, 4, {{1, 1}}},
                                             {2, 1, 7, {{7, 7}, {1, 1}, {33, 33}}},
                                             {7, 1, 16, {{31, 31}, {64, 64}}},
                                             {3, 3, 64, {{64, 64}, {65, 65}, {1, 1}}},
                                             {9, 3, 64, {{130, 130}, {2, 2}}},
                                             {4, 2, 80, {{67, 67}}},
                                             {2, 1, 80, {{90, 90}, {7, 7}}, 0, true},
                                             {2, 1, 256, {{100, 100}}},
                                             {2, 1, 144, {{70, 70}}},
                                             {1, 1, 200, {{130, 130}}},
                                             {4, 1, 128, {{200, 200}}, 33},
                                             {2, 1, 64, {{300, 300}, {1, 1}, {64, 64}}},
                                             {2, 1, 96, {{33, 33}}},
                                             {2, 1, 128, {{66, 66}}},
                                             {3, 1, 16, {{65, 65}, {4, 4}, {150, 150}}, 5},
                                             {2, 2, 64, {{130, 130}}, 64},
                                             {4, 2, 32, {{200, 200}, {66, 66}}, 67},
                                             {2, 1, 8, {{70, 70}}, 69}})
        check_backward(c, X);
  });
}

TEST_CASE("attention: large scores neither overflow nor lose the maximum") {
  const Case c{2, 1, 64, {{70, 70}, {1, 70}}};
  for (const DType X : activations()) {
    Call call(c, X);
    call.attention.scale = 40;  // scores of hundreds: exp of them is far past f32
    Ops& ops = test_ops(2);
    Matrix o(call.Nq, c.H * c.D, X), lse(call.Nq, c.H, DType::F32);
    ops.attention(o, lse.tensor(), call.q, call.k, call.v, call.sequences.tensor(), call.attention);
    for (const double x : o.values()) REQUIRE(std::isfinite(x));
    for (const double x : lse.values()) REQUIRE(std::isfinite(x));
  }
}

TEST_CASE("attention: a NaN reaches only the rows that see it, and those of their tile") {
  const Case c{1, 1, 8, {{70, 70}, {9, 9}}};
  for (const DType X : activations()) {
    INFO(name(X));
    Call call(c, X);
    call.v.set(66, 3, NAN);
    Matrix o(call.Nq, 8, X);
    test_ops(2).attention(o, {}, call.q, call.k, call.v, call.sequences.tensor(), call.attention);
    const Values found = o.values();
    for (size_t n = 0; n < 79; ++n)
      for (size_t d = 0; d < 8; ++d) {
        if (n >= 66 && n < 70 && d == 3) CHECK(std::isnan(found[n * 8 + d]));
        if (n < 64 || n >= 70) CHECK_FALSE(std::isnan(found[n * 8 + d]));
      }
  }
}

}  // namespace lema::test
