// Scratch of the CPU kernels, sized once from OpsLimits: one arena that the threads share (panels, low-rank products)
// and one slot per running task (tiles). Held by CpuOps, used by linear and head.
#pragma once

#include <mutex>
#include <utility>
#include <vector>

#include "cpu/gemm.h"
#include "cpu/host_memory.h"

namespace lema::cpu {

// Columns of an output tile: a tile is kTileRows x kTileCols and stays in the L2 cache.
inline constexpr int64_t kTileCols = 4 * kSliver;
// Columns of x that a thread masks for dropout at a time.
inline constexpr int64_t kMaskCols = 512;
// Columns of the three side by side.
inline constexpr int64_t kWideCols = 2 * kTileCols + kMaskCols;
// Parts of one linear with an adapter each: q, k, v at most.
inline constexpr int64_t kMaxAdapters = 4;

class Workspace {
 public:
  Workspace(const OpsLimits& limits, int threads);

  int64_t bytes() const { return arena_.bytes() + slots_.bytes(); }

  // Bump allocation from the shared arena; release() forgets everything taken. Threads: the submitting one.
  float* take(int64_t floats);
  int64_t available() const { return arena_.bytes() / kFloatBytes - used_; }
  void release() { used_ = 0; }

  // What one task works in. The contents survive nothing.
  struct Tiles {
    float* product;  // kMultiplyScratch
    float* out;      // kTileRows * kTileCols
    float* second;   // kTileRows * kTileCols
    float* masked;   // kTileRows * kMaskCols
    float* panel;    // kTileRows * kMaskCols
    float* thin;     // kMaxAdapters * rank * kTileCols
    float* wide;     // kTileRows * kWideCols, in place of out, second and masked
  };

  // A free slot for the lifetime of the lease; there are as many as threads. Threads: concurrent.
  class Lease {
   public:
    explicit Lease(Workspace& workspace);
    Lease(const Lease&) = delete;
    ~Lease();
    const Tiles* operator->() const { return &tiles_; }

   private:
    Workspace& workspace_;
    int index_;
    Tiles tiles_;
  };

 private:
  static constexpr int64_t kFloatBytes = sizeof(float);

  int64_t slot_floats_;
  HostMemory arena_, slots_;
  int64_t used_ = 0;
  std::mutex mutex_;
  std::vector<int> free_;
};

}  // namespace lema::cpu
