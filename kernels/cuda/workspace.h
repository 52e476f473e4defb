// Scratch of the CUDA kernels: one device buffer, sized once from OpsLimits. A call takes what it
// needs from its start; what it took is forgotten when it returns, since calls follow each other on
// the compute queue. Held by CudaOps; used by linear, head and attention.
#pragma once

#include <algorithm>

#include "device.h"
#include "ops.h"

namespace lema::cuda {

// Weights that are not of dtype X pass through this much scratch.
inline constexpr int64_t kConvertedBytes = int64_t{16} << 20;
// Columns of x that are masked for dropout at a time, or of dx that are summed in f32.
inline constexpr int64_t kMaskCols = 512;
// Outputs of a linear that are summed in f32 at a time before they are stored, 16 MiB that stay in
// the L2 cache.
inline constexpr int64_t kSumElements = int64_t{4} << 20;
// Vocabulary rows whose logits are in scratch at a time.
inline constexpr int64_t kLogitCols = 2048;
// Parts of one linear with an adapter each: q, k, v at most.
inline constexpr int64_t kMaxAdapters = 4;

inline constexpr int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }
// How many outputs, or inputs, of a weight pass the scratch for converted weights at a time.
inline int64_t converted_step(int64_t other_side, DType X) {
  const int64_t step = kConvertedBytes / element_bytes(X) / round_up(other_side, 8) / 8 * 8;
  return step < 8 ? 8 : step;
}
// How many outputs of `rows` rows are summed in f32 at a time: the same for all of a class.
inline constexpr int64_t sum_columns(int64_t rows) {
  return std::max<int64_t>(8, kSumElements / row_class(rows) / 8 * 8);
}

class Workspace {
 public:
  Workspace(Device& device, const OpsLimits& limits);
  int64_t bytes() const { return buffer_.bytes(); }
  static int64_t bytes_for(const OpsLimits& limits);

  // The next `rows` x `cols` elements, rows 16-byte aligned (their distance is rounded up).
  MatrixView take(DType dtype, int64_t rows, int64_t cols);

  // Forgets at its end what was taken in its lifetime.
  class Scope {
   public:
    explicit Scope(Workspace& workspace) : workspace_(workspace), used_(workspace.used_) {}
    Scope(const Scope&) = delete;
    ~Scope() { workspace_.used_ = used_; }

   private:
    Workspace& workspace_;
    int64_t used_;
  };

 private:
  Buffer buffer_;
  int64_t used_ = 0;
};

}  // namespace lema::cuda
