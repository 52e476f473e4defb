// Scratch of the CPU kernels, sized once from OpsLimits: one arena that the threads share (panels,
// low-rank products) and one slot per running task (tiles). Held by CpuOps, used by linear and
// head.
#pragma once

#include <mutex>
#include <utility>
#include <vector>

#include "cpu/gemm.h"
#include "cpu/host_memory.h"

namespace lema::cpu {

// An output tile of a linear: at most kBlockRows x kTileCols, 384 KiB. With a panel of kPanelRows x
// kTileCols and its share of x it stays in a 2 MiB L2 cache: the columns pay for reading x, and for
// splitting it, the rows for packing.
inline constexpr int64_t kBlockRows = 2 * kTileRows, kTileCols = 8 * kSliver,
                         kPanelRows = 6 * kInnerBlock;
// Largest inner size of a low-rank product that a tile adds to another in registers.
inline constexpr int64_t kMaxAddend = kTileRows;
// Columns of x that a thread masks for dropout at a time.
inline constexpr int64_t kMaskCols = 768;
// Parts of one linear with an adapter each: q, k, v at most.
inline constexpr int64_t kMaxAdapters = 4;

class Workspace {
 public:
  Workspace(const OpsLimits& limits, int threads);

  int64_t bytes() const { return arena_.bytes() + slots_.bytes(); }
  static int64_t bytes_for(const OpsLimits& limits, int threads);

  // Bump allocation from the shared arena; release_to() forgets what was taken since. Threads: the
  // submitting one.
  float* take(int64_t floats);
  int64_t taken() const { return used_; }
  int64_t available() const { return arena_.bytes() / kFloatBytes - used_; }
  void release_to(int64_t taken) { used_ = taken; }

  // What one task works in. The contents survive nothing.
  struct Tiles {
    float* product;  // kMultiplyScratch
    float* out;      // kBlockRows * kTileCols
    float* second;   // kTileRows * kTileCols
    float* masked;   // kTileRows * kMaskCols
    float* panel;    // kPanelRows * kTileCols
    float* thin;     // kMaxAdapters * rank * kTileCols
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
