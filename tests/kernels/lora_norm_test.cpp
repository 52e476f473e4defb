// Ops::lora_norm against the reference: layouts, storage types, ranks past a panel, each
// instruction set, and the same bits for any number of threads.
#include "ref/lora_norm.h"

#include <cmath>

#include "support/catch.h"
#include "support/kernel_case.h"

using namespace lema;
using namespace lema::test;

namespace {

constexpr OpsLimits kLimits = {.rows = 4, .width = 400, .rank = 800, .dora = true};

Values transpose(const Values& in, int64_t rows, int64_t cols) {
  Values out(in.size());
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c)
      out[static_cast<size_t>(c * rows + r)] = in[static_cast<size_t>(r * cols + c)];
  return out;
}

Values magnitudes(Values x) {
  for (double& value : x) value = std::abs(value);
  return x;
}

void check_case(int64_t O, int64_t I, int64_t R, DType W, bool transposed) {
  INFO(fmt::format("O={} I={} R={} W={} transposed={}", O, I, R, name(W), transposed));
  const Matrix weight = transposed ? Matrix::random(I, O, W, 1) : Matrix::random(O, I, W, 1);
  const Matrix a = Matrix::random(R, I, DType::F32, 2, 1 / std::sqrt(static_cast<double>(R))),
               b = Matrix::random(O, R, DType::F32, 3);
  LoraView lora;
  lora.a = a.tensor(), lora.b = b.tensor(), lora.scale = 0.75f;
  const LinearPart part{weight.tensor(), transposed, {}, &lora};
  const Values w = transposed ? transpose(weight.values(), I, O) : weight.values();
  const auto expected = ref::lora_norm(w, a.values(), b.values(), 0.75, static_cast<size_t>(O),
                                       static_cast<size_t>(I));
  const auto terms = ref::lora_norm(magnitudes(w), magnitudes(a.values()), magnitudes(b.values()),
                                    0.75, static_cast<size_t>(O), static_cast<size_t>(I));
  on_each_isa([&] {
    const Matrix norm = result_of(Matrix(1, O, DType::F32), [&](Ops& ops, const Matrix& out) {
      ops.lora_norm(out.vector(), part);
    });
    // The error of a row's length is at most the length of its elements' errors, and that of the
    // sum of squares, whose terms are all positive.
    Values bound;
    for (int64_t o = 0; o < O; ++o) {
      const auto at = static_cast<size_t>(o);
      bound.push_back(reduction_bound(R + 2, terms[at]) + reduction_bound(I, expected[at]));
    }
    expect_close("norm", norm.values(), expected, bound);
  });
}

}  // namespace

TEST_CASE("lora_norm: odd shapes, storage types and layouts") {
  for (bool transposed : {false, true})
    for (DType W : kWeights)
      for (int64_t O : {1, 7, 193, 260})
        for (int64_t I : {1, 33, 257}) check_case(O, I, 5, W, transposed);
  for (bool transposed : {false, true}) check_case(20, 30, 800, DType::F32, transposed);
}

TEST_CASE("lora_norm: wrong arguments are named") {
  const auto ops = make_test_ops(1, kLimits);
  Matrix weight(4, 6, DType::F32), norm(1, 3, DType::F32);
  LinearPart part{weight.tensor(), false, {}, nullptr};
  CHECK_THROWS_WITH(ops->lora_norm(norm.vector(), part), "lora_norm: no adapter");
  Matrix a(2, 6, DType::F32), b(4, 2, DType::F32);
  LoraView lora;
  lora.a = a.tensor(), lora.b = b.tensor();
  part.lora = &lora;
  CHECK_THROWS_WITH(ops->lora_norm(norm.vector(), part),
                    "lora_norm: norm is F32 [3], expected F32 [4]");
}
