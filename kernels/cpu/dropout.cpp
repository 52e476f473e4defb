// Philox for many counters at once, as core/rng.h defines it, and the mask made of its words.
#include "cpu/dropout.h"

#include <algorithm>

#include "core/rng.h"
#include "cpu/simd.h"

namespace lema::cpu {
namespace {

constexpr int kBlocks = 64;  // counters of one batch: 256 words

// words[4 i + w] = philox(key, Dropout, first + i)[w]; rounds outside, counters inside, so that the
// loop vectorises.
[[gnu::always_inline]] inline void draw(uint32_t* words, uint64_t key, uint64_t first) {
  uint32_t c[4][kBlocks];
  for (int i = 0; i < kBlocks; ++i) {
    const uint64_t counter = first + static_cast<uint64_t>(i);
    c[0][i] = static_cast<uint32_t>(counter);
    c[1][i] = static_cast<uint32_t>(counter >> 32);
    c[2][i] = 0;
    c[3][i] = static_cast<uint32_t>(RngStream::Dropout);
  }
  auto k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < kBlocks; ++i) {
      const uint64_t p0 = uint64_t{0xD2511F53u} * c[0][i], p1 = uint64_t{0xCD9E8D57u} * c[2][i];
      c[0][i] = static_cast<uint32_t>(p1 >> 32) ^ c[1][i] ^ k0;
      c[1][i] = static_cast<uint32_t>(p1);
      c[2][i] = static_cast<uint32_t>(p0 >> 32) ^ c[3][i] ^ k1;
      c[3][i] = static_cast<uint32_t>(p0);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int i = 0; i < kBlocks; ++i)
    for (int w = 0; w < 4; ++w) words[4 * i + w] = c[w][i];
}

[[gnu::always_inline]] inline void keep(float* x, const uint32_t* words, int64_t n, float dropout) {
  for (int64_t i = 0; i < n; ++i) x[i] = uniform(words[i]) >= dropout ? x[i] : 0.f;
}

}  // namespace

void drop(float* x, int64_t stride, int64_t rows, int64_t cols, const LoraView& lora, int64_t row,
          int64_t col, int64_t width) {
  uint32_t words[4 * kBlocks];
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t begin =
        (lora.first_row + row + i) * width + col;  // linear index of the row's first element
    for (int64_t at = begin; at < begin + cols;) {
      const int64_t base = at / 4 * 4, end = std::min(begin + cols, base + 4 * kBlocks);
      float* to = x + i * stride + (at - begin);
      vectorised([&](auto) {
        draw(words, lora.dropout_key, static_cast<uint64_t>(base / 4));
        keep(to, words + (at - base), end - at, lora.dropout);
      });
      at = end;
    }
  }
}

}  // namespace lema::cpu
