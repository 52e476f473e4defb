// Sizes of the scratch and the two ways to hand it out. Used by CpuOps.
#include "cpu/workspace.h"

#include <algorithm>

#include "core/error.h"

namespace lema::cpu {
namespace {

// Panels: 16 MiB hold the weights of most chunks; at least one sliver of the widest backward product, whose inner size
// is the sum of the parts' outputs. Adapters: A side by side, panels of A twice and of B, h and u.
int64_t arena_floats(const OpsLimits& limits) {
  const int64_t rank = round_up(std::max<int64_t>(limits.rank, 1), kLane);
  const int64_t panels = std::max<int64_t>(int64_t{4} << 20, 2 * kSliver * kMaxAdapters * limits.width);
  const int64_t adapters =
      limits.rank == 0 ? 0 : kMaxAdapters * rank * (4 * round_up(limits.width, kSliver) + 2 * limits.rows);
  return panels + adapters;
}

}  // namespace

Workspace::Workspace(const OpsLimits& limits, int threads)
    : slot_floats_(kMultiplyScratch + kTileRows * (kWideCols + kMaskCols) + kMaxAdapters * limits.rank * kTileCols),
      arena_(arena_floats(limits) * kFloatBytes, "CPU kernels' panels"),
      slots_(threads * slot_floats_ * kFloatBytes, "CPU kernels' tiles") {
  for (int i = 0; i < threads; ++i) free_.push_back(i);
}

float* Workspace::take(int64_t floats) {
  const int64_t padded = round_up(floats, 16);  // 64 bytes, a cache line
  check(padded <= available(), "CPU scratch: {} floats wanted, {} left; are the limits too low?", padded, available());
  float* out = arena_.floats() + used_;
  used_ += padded;
  return out;
}

Workspace::Lease::Lease(Workspace& workspace) : workspace_(workspace) {
  {
    const std::lock_guard lock(workspace_.mutex_);
    check(!workspace_.free_.empty(), "more running tasks than threads");
    index_ = workspace_.free_.back();
    workspace_.free_.pop_back();
  }
  constexpr int64_t kTile = kTileRows * kTileCols, kMask = kTileRows * kMaskCols;
  float* base = workspace_.slots_.floats() + index_ * workspace_.slot_floats_;
  float* out = base + kMultiplyScratch;
  float* panel = out + kTileRows * kWideCols;
  tiles_ = {base, out, out + kTile, out + 2 * kTile, panel, panel + kMask, out};
}

Workspace::Lease::~Lease() {
  const std::lock_guard lock(workspace_.mutex_);
  workspace_.free_.push_back(index_);
}

}  // namespace lema::cpu
