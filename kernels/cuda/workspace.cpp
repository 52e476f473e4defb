// What each kernel takes at most, and the bump allocation.
#include "cuda/workspace.h"

#include <algorithm>

#include "core/error.h"
#include "cuda/adamw.h"

namespace lema::cuda {
namespace {

constexpr int64_t kF32 = 4;         // the widest element
constexpr int64_t kPadding = 4096;  // of all pieces of a call to 256 bytes

// Small models: the parts of a linear together.
int64_t converted_bytes(const OpsLimits& limits) {
  const int64_t width = round_up(limits.width, 8);
  return std::min(kConvertedBytes, kF32 * kMaxAdapters * width * width);
}

// Each B once more, gains, the scaled columns of dy or a tile of z, and one dB.
int64_t dora_bytes(const OpsLimits& limits) {
  const int64_t width = round_up(limits.width, 8), stack = kMaxAdapters * round_up(limits.rank, 8);
  if (!limits.dora) return 0;
  return kF32 * (2 * stack * width + kMaxAdapters * width + 2 * limits.rows * kMaskCols);
}

// A stacked, each B, h in f32 and X, u; masked columns of x, and two of dx in f32, or sums of y;
// biases.
int64_t linear_bytes(const OpsLimits& limits) {
  const int64_t width = round_up(limits.width, 8), stack = kMaxAdapters * round_up(limits.rank, 8);
  const int64_t masked = limits.rows * kMaskCols,
                sums = std::min(limits.rows * kMaxAdapters * width,  // parts that lie together
                                std::max(kSumElements, 8 * limits.rows));
  return kF32 * (2 * stack * width + 3 * limits.rows * stack + masked + std::max(2 * masked, sums) +
                 kMaxAdapters * width) +
         dora_bytes(limits);
}

// Logits, and the probabilities that enter the product with the weight.
int64_t head_bytes(const OpsLimits& limits) {
  return kF32 * 2 * limits.rows * round_up(std::min(limits.vocab_chunk, kLogitCols), 8);
}

int64_t attention_bytes(const OpsLimits& limits) {
  return kF32 * round_up(limits.heads, 4) * limits.tokens;
}

}  // namespace

int64_t Workspace::bytes_for(const OpsLimits& limits) {
  return converted_bytes(limits) + kPadding +
         std::max(
             {linear_bytes(limits), head_bytes(limits), attention_bytes(limits), 8 * kNormParts});
}

Workspace::Workspace(Device& device, const OpsLimits& limits)
    : buffer_(device.allocate(bytes_for(limits), "kernel scratch")) {}

MatrixView Workspace::take(DType dtype, int64_t rows, int64_t cols) {
  const int64_t item = element_bytes(dtype), stride = round_up(cols * item, 16) / item;
  const int64_t bytes = round_up(rows * stride * item, 256);
  check(bytes <= buffer_.bytes() - used_,
        "CUDA scratch: {} bytes wanted, {} left; are the limits too low?", bytes,
        buffer_.bytes() - used_);
  const MatrixView out(buffer_.data() + used_, dtype, rows, cols, stride);
  used_ += bytes;
  return out;
}

}  // namespace lema::cuda
