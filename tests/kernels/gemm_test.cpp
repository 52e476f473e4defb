// The matrix product below linear and head: layouts, storage types, tails, parts of panels, every
// instruction set; the storage conversions bit for bit; the dropout words against core/rng.h.
#include "cpu/gemm.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/rng.h"
#include "cpu/convert.h"
#include "cpu/dropout.h"
#include "cpu/gemm_bf16.h"
#include "cpu/isa.h"
#include "support/catch.h"
#include "support/random_tensor.h"

using namespace lema;
using namespace lema::test;

namespace {

std::vector<cpu::Isa> instruction_sets() {
  std::vector<cpu::Isa> out;
  for (cpu::Isa isa : {cpu::Isa::Baseline, cpu::Isa::Avx2, cpu::Isa::Avx512})
    if (isa <= cpu::widest_isa()) out.push_back(isa);
  return out;
}

struct UseIsa {
  explicit UseIsa(cpu::Isa isa) { cpu::use_isa(isa); }
  ~UseIsa() { cpu::use_isa(cpu::widest_isa()); }
};

std::vector<cpu::Bf16Products> bf16_kinds() {
  std::vector<cpu::Bf16Products> out;
  for (auto kind : {cpu::Bf16Products::Widened, cpu::Bf16Products::Avx512, cpu::Bf16Products::Amx})
    if (kind <= cpu::widest_bf16_products()) out.push_back(kind);
  return out;
}

struct UseBf16 {
  explicit UseBf16(cpu::Bf16Products kind) { cpu::use_bf16_products(kind); }
  ~UseBf16() { cpu::use_bf16_products(cpu::widest_bf16_products()); }
};

double rounded(double x, DType X) {
  return X == DType::BF16 ? to_f32(to_bf16(static_cast<float>(x))) : x;
}

// c (=|+=) A B for stored A and B of any type; `flip` stores the transpose.
void check_product(int64_t M, int64_t N, int64_t K, DType a_type, DType b_type, DType X,
                   bool flip_a, bool flip_b, Write write) {
  INFO(fmt::format("M={} N={} K={} A={}{} B={}{} X={} accumulate={}", M, N, K, name(a_type),
                   flip_a ? "^T" : "", name(b_type), flip_b ? "^T" : "", name(X),
                   write == Write::Accumulate));
  const Matrix a =
      Matrix::random(flip_a ? K : M, flip_a ? M : K, a_type, 1, 1, (flip_a ? M : K) + 3);
  const Matrix b =
      Matrix::random(flip_b ? N : K, flip_b ? K : N, b_type, 2, 1, (flip_b ? K : N) + 1);
  Matrix c = Matrix::random(M, N, DType::F32, 3, 1, N + 2);
  const Values before = c.values(), av = a.values(), bv = b.values();
  const cpu::Operand a_operand =
      flip_a ? cpu::operand(a.view()).transposed() : cpu::operand(a.view());
  const cpu::Operand b_operand =
      flip_b ? cpu::operand(b.view()).transposed() : cpu::operand(b.view());
  // What is in the scratch before must not matter, NaN least of all.
  std::vector<float> panel(static_cast<size_t>(cpu::panel_floats(K, N)), NAN),
      scratch(cpu::kMultiplyScratch, NAN);
  const cpu::Panel packed = cpu::panel_for(panel.data(), K, b_type, X);
  cpu::pack_panel(packed, b_operand, N, X);
  cpu::multiply(static_cast<float*>(c.view().data), c.view().stride, a_operand, packed, M, N, K,
                write, X, scratch.data());
  Values expected, bound;
  for (int64_t m = 0; m < M; ++m)
    for (int64_t n = 0; n < N; ++n) {
      const double old = write == Write::Accumulate ? before[static_cast<size_t>(m * N + n)] : 0;
      double sum = old, terms = std::abs(old);
      for (int64_t k = 0; k < K; ++k) {
        const double product = rounded(av[static_cast<size_t>(flip_a ? k * M + m : m * K + k)], X) *
                               rounded(bv[static_cast<size_t>(flip_b ? n * K + k : k * N + n)], X);
        sum += product, terms += std::abs(product);
      }
      expected.push_back(sum);
      bound.push_back(reduction_bound(K + 1, terms));
    }
  expect_close("c", c.values(), expected, bound);
  CHECK(c.gaps_intact());
}

}  // namespace

TEST_CASE("products: tails of rows, columns and inner size, by instruction set") {
  for (cpu::Isa isa : instruction_sets()) {
    const UseIsa use(isa);
    for (int64_t M : {1, 7, 8, 9, 31, 128})
      for (int64_t N : {1, 15, 16, 17, 33, 48, 49, 100})
        for (int64_t K : {1, 2, 65, 257})
          check_product(M, N, K, DType::F32, DType::F32, DType::F32, false, true, Write::Overwrite);
  }
}

TEST_CASE("products: layouts and storage types, by instruction set") {
  for (cpu::Isa isa : instruction_sets()) {
    const UseIsa use(isa);
    for (DType X : {DType::F32, DType::BF16})
      for (DType a : {DType::F32, DType::BF16})
        for (DType b : {DType::F32, DType::BF16, DType::F16})
          for (bool flip_a : {false, true})
            for (bool flip_b : {false, true})
              for (Write write : {Write::Overwrite, Write::Accumulate})
                check_product(21, 70, 300, a, b, X, flip_a, flip_b, write);
  }
}

TEST_CASE("products: native bf16, tails and layouts") {
  for (cpu::Bf16Products kind : bf16_kinds()) {
    const UseBf16 use(kind);
    INFO("kind " << static_cast<int>(kind));
    for (int64_t M : {1, 15, 16, 17, 32, 49, 128})
      for (int64_t N : {1, 16, 33, 48, 100})
        for (int64_t K : {1, 2, 31, 32, 65, 513, 1100})
          check_product(M, N, K, DType::BF16, DType::BF16, DType::BF16, false, true,
                        Write::Accumulate);
    for (DType a : {DType::F32, DType::BF16})
      for (DType b : {DType::F32, DType::BF16, DType::F16})
        for (bool flip_a : {false, true})
          for (bool flip_b : {false, true})
            for (int64_t K : {64, 300})
              check_product(48, 70, K, a, b, DType::BF16, flip_a, flip_b, Write::Overwrite);
  }
}

TEST_CASE("products: f32 by a bf16 matrix, tails and layouts") {
  for (cpu::Bf16Products kind : bf16_kinds()) {
    const UseBf16 use(kind);
    INFO("kind " << static_cast<int>(kind));
    for (int64_t M : {1, 16, 17, 33, 128})
      for (int64_t N : {1, 48, 100})
        for (int64_t K : {1, 31, 32, 129, 801})
          check_product(M, N, K, DType::F32, DType::BF16, DType::F32, false, true,
                        Write::Accumulate);
    for (DType a : {DType::F16, DType::BF16})
      for (bool flip : {false, true})
        check_product(48, 70, 801, a, DType::BF16, DType::F32, flip, !flip, Write::Overwrite);
  }
}

TEST_CASE("products: parts of a panel") {
  const int64_t M = 10, N = 150, K = 400;
  const Matrix a = Matrix::random(M, K, DType::F32, 1), b = Matrix::random(K, N, DType::F32, 2);
  std::vector<float> panel(static_cast<size_t>(cpu::panel_floats(K, N))),
      scratch(cpu::kMultiplyScratch);
  const cpu::Panel packed = cpu::panel_for(panel.data(), K, DType::F32, DType::F32);
  for (int64_t n = 0; n < N; n += cpu::kSliver)
    cpu::pack_panel(packed.columns_from(n), cpu::operand(b.view()).from(0, n),
                    std::min(cpu::kSliver, N - n), DType::F32);
  Matrix whole(M, N, DType::F32), parts(M, N, DType::F32);
  auto* w = static_cast<float*>(whole.view().data);
  auto* p = static_cast<float*>(parts.view().data);
  cpu::multiply(w, N, cpu::operand(a.view()), packed, M, N, K, Write::Overwrite, DType::F32,
                scratch.data());
  for (int64_t n : {0, 96})
    for (int64_t k : {0, 256})
      cpu::multiply(p + n, N, cpu::operand(a.view()).from(0, k),
                    packed.columns_from(n).rows_from(k), M, n == 0 ? 96 : N - 96,
                    k == 0 ? 256 : K - 256, k == 0 ? Write::Overwrite : Write::Accumulate,
                    DType::F32, scratch.data());
  CHECK(parts.same_bytes(whole));  // cut where the product itself cuts
}

TEST_CASE("conversions: every 16-bit pattern, and roundings, bit for bit") {
  for (cpu::Isa isa : instruction_sets()) {
    const UseIsa use(isa);
    std::vector<uint16_t> all(65536);
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
    std::vector<float> wide(all.size());
    for (DType dtype : {DType::BF16, DType::F16}) {
      cpu::widen(wide.data(), all.data(), dtype, 65536);
      int64_t wrong = 0;
      for (size_t i = 0; i < all.size(); ++i) {
        const float expected = dtype == DType::BF16 ? to_f32(bf16{all[i]}) : to_f32(f16{all[i]});
        wrong += std::isnan(expected)
                     ? !std::isnan(wide[i])
                     : std::bit_cast<uint32_t>(wide[i]) != std::bit_cast<uint32_t>(expected);
      }
      CHECK(wrong == 0);
    }
    std::vector<float> values;
    for (uint64_t i = 0; i < 70000; ++i)
      values.push_back(std::bit_cast<float>(static_cast<uint32_t>(i * 61357)));
    for (DType dtype : {DType::BF16, DType::F16}) {
      std::vector<uint16_t> narrow(values.size());
      cpu::narrow(narrow.data(), dtype, values.data(), static_cast<int64_t>(values.size()));
      int64_t wrong = 0;
      for (size_t i = 0; i < values.size(); ++i) {
        const uint16_t expected =
            dtype == DType::BF16 ? to_bf16(values[i]).bits : to_f16(values[i]).bits;
        wrong += narrow[i] != expected;
      }
      CHECK(wrong == 0);
    }
    // Past the caches: the same bits, at any place, whole lines or not.
    alignas(64) uint8_t streamed[4 * 70000 + 64];
    std::vector<uint8_t> stored(4 * values.size());
    for (DType dtype : {DType::F32, DType::BF16, DType::F16})
      for (const int64_t n : {int64_t{1}, int64_t{31}, int64_t{32}, int64_t{480}, int64_t{69984}})
        for (const int64_t offset : {int64_t{0}, int64_t{4}, int64_t{32}}) {
          const auto bytes = static_cast<size_t>(n * element_bytes(dtype));
          cpu::narrow(stored.data(), dtype, values.data(), n);
          std::fill(std::begin(streamed), std::end(streamed), uint8_t{0xa5});
          cpu::narrow_past_caches(streamed + offset, dtype, values.data(), n);
          cpu::publish_past_caches();
          CHECK(std::memcmp(streamed + offset, stored.data(), bytes) == 0);
          CHECK(streamed[static_cast<size_t>(offset) + bytes] == 0xa5);
        }
  }
}

TEST_CASE("dropout words are those of the generator, from any element on") {
  LoraView lora;
  lora.dropout = 0.5f, lora.dropout_key = 0x123456789abcdefull, lora.first_row = 3;
  for (cpu::Isa isa : instruction_sets()) {
    const UseIsa use(isa);
    for (int64_t width : {1, 6, 700})
      for (int64_t col : {int64_t{0}, width / 3}) {
        std::vector<float> x(static_cast<size_t>(5 * width), 1.0f);
        cpu::drop(x.data(), width, 5, width - col, lora, 2, col, width);
        int64_t wrong = 0;
        for (int64_t r = 0; r < 5; ++r)
          for (int64_t c = 0; c < width - col; ++c) {
            const auto index = static_cast<uint64_t>((lora.first_row + 2 + r) * width + col + c);
            const uint32_t word =
                philox(lora.dropout_key, RngStream::Dropout, index / 4)[index % 4];
            wrong += (x[static_cast<size_t>(r * width + c)] == 1.0f) != (uniform(word) >= 0.5f);
          }
        CHECK(wrong == 0);
      }
  }
}
