// Runs a CPU kernel the ways it must not differ: with 1, 2 and 3 threads; and with each instruction
// set of this CPU.
#pragma once

#include <vector>

#include "core/thread_pool.h"
#include "cpu/isa.h"
#include "support/complex_step.h"
#include "support/random_tensor.h"

namespace lema::test {

// Sizes that are one, odd, prime, a vector, and a vector and one.
inline const std::vector<int64_t> kRows = {1, 7, 33};
inline const std::vector<int64_t> kWidths = {1, 7, 16, 17, 33, 64, 65, 131};
inline const std::vector<DType> kActivations = {DType::F32, DType::BF16};
inline const std::vector<DType> kWeights = {DType::F32, DType::BF16, DType::F16};

// body() once for each instruction set this CPU has.
template <typename Body>
void on_each_isa(const Body& body) {
  for (int isa = 0; isa <= static_cast<int>(cpu::widest_isa()); ++isa) {
    INFO("instruction set " << isa);
    cpu::use_isa(static_cast<cpu::Isa>(isa));
    body();
  }
  cpu::use_isa(cpu::widest_isa());
}

// A copy of `initial` after run(pool, copy): bit-equal for every thread count, and nothing outside
// the view changed.
template <typename Run>
Matrix result_of(const Matrix& initial, const Run& run) {
  Matrix first = initial;
  for (const int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    Matrix out = initial;
    run(pool, out);
    CHECK(out.gaps_intact());
    if (threads == 1) first = out;
    CHECK(out.same_bytes(first));
  }
  return first;
}

}  // namespace lema::test
