// Runs a kernel the ways it must not differ: on the CPU with 1, 2 and 3 threads and with each
// instruction set, on a GPU again and again.
#pragma once

#include <array>
#include <vector>

#include "cpu/isa.h"
#include "support/backend.h"
#include "support/complex_step.h"
#include "support/random_tensor.h"

namespace lema::test {

// Sizes that are one, odd, prime, a vector, and a vector and one.
inline const std::vector<int64_t> kRows = {1, 7, 33};
inline const std::vector<int64_t> kWidths = {1, 7, 16, 17, 33, 64, 65, 131};
inline const std::vector<DType> kWeights = {DType::F32, DType::BF16, DType::F16};

// Types of activations: a GPU has f16 as well.
inline std::vector<DType> activations() {
  if (tests_cpu()) return {DType::F32, DType::BF16};
  return {DType::F32, DType::BF16, DType::F16};
}

// How far rows of `width` columns lie apart: by an odd gap, or by a whole number of 16-byte units
// where the width is one, so that both ways to reach memory are taken.
inline int64_t apart(int64_t width, int64_t odd) { return width + (width % 16 == 0 ? 16 : odd); }

// body() once for each instruction set of this CPU; once where the CPU is not tested.
template <typename Body>
void on_each_isa(const Body& body) {
  if (!tests_cpu()) return body();
  for (int isa = 0; isa <= static_cast<int>(cpu::widest_isa()); ++isa) {
    INFO("instruction set " << isa);
    cpu::use_isa(static_cast<cpu::Isa>(isa));
    body();
  }
  cpu::use_isa(cpu::widest_isa());
}

// Kernels for the small shapes of the tests, kept for the run of the program.
inline Ops& test_ops(int threads) {
  constexpr OpsLimits kLimits = {.rows = 256,
                                 .tokens = 2048,
                                 .width = 2048,
                                 .rank = 800,
                                 .dora = true,
                                 .vocab_chunk = 64,
                                 .heads = 16,
                                 .head_size = 256};
  static std::array<std::unique_ptr<Ops>, 4> all;
  std::unique_ptr<Ops>& ops = all[tests_cpu() ? static_cast<size_t>(threads) : 0];
  if (!ops) ops = make_test_ops(threads, kLimits);
  return *ops;
}

// A copy of `initial` after run(ops, copy): bit-equal for every thread count and every time, and
// nothing outside the view changed.
template <typename Run>
Matrix result_of(const Matrix& initial, const Run& run) {
  Matrix first = initial;
  for (const int threads : {1, 2, 3}) {
    Matrix out = initial;
    run(test_ops(threads), out);
    CHECK(out.gaps_intact());
    if (threads == 1) first = out;
    CHECK(out.same_bytes(first));
  }
  return first;
}

}  // namespace lema::test
