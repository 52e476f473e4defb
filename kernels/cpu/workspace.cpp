// Sizes of the scratch and the two ways to hand it out. Used by CpuOps.
#include "cpu/workspace.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "cpu/matvec.h"

namespace lema::cpu {
namespace {

// What each kernel takes at most: adapters A side by side, its panel, that of B, h and u, with
// magnitudes the scaled B and the gains; few rows x in two forms, h and the gains; the head two
// panels of its sub-chunk, 8 MiB or one sliver each.
int64_t arena_floats(const OpsLimits& limits) {
  const int64_t width = round_up(limits.width, kSliver),
                rank = kMaxAdapters * round_up(limits.rank, kLane);
  const int64_t gains = limits.dora ? kMaxAdapters * width : 0;
  const int64_t adapters = rank * ((limits.dora ? 4 : 3) * width + 2 * limits.rows) + gains;
  // x in f32 and as pairs, of which f32 has three parts of half the width.
  const int64_t few_rows = kFewRows * (5 * width / 2 + rank) + gains;
  const int64_t head =
      limits.vocab_chunk == 0 ? 0 : std::max<int64_t>(int64_t{2} << 20, 2 * kSliver * width);
  return std::max({adapters, few_rows, head}) +
         1024;  // 1,024: each piece is rounded up to a cache line
}

int64_t slot_floats(const OpsLimits& limits) {
  return kMultiplyScratch + (kBlockRows + kTileRows + kPanelRows) * kTileCols +
         kTileRows * kMaskCols + kMaxAdapters * limits.rank * kTileCols;
}

}  // namespace

Workspace::Workspace(const OpsLimits& limits, int threads)
    : slot_floats_(slot_floats(limits)),
      arena_(arena_floats(limits) * kFloatBytes, "CPU kernels' panels"),
      slots_(threads * slot_floats_ * kFloatBytes, "CPU kernels' tiles") {
  for (int i = 0; i < threads; ++i) free_.push_back(i);
}

int64_t Workspace::bytes_for(const OpsLimits& limits, int threads) {
  return (arena_floats(limits) + threads * slot_floats(limits)) * kFloatBytes;
}

float* Workspace::take(int64_t floats) {
  const int64_t padded = round_up(floats, 16);  // 64 bytes, a cache line
  check(padded <= available(), "CPU scratch: {} floats wanted, {} left; are the limits too low?",
        padded, available());
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
  float* at = workspace_.slots_.floats() + index_ * workspace_.slot_floats_;
  const auto next = [&](int64_t floats) { return std::exchange(at, at + floats); };
  tiles_.product = next(kMultiplyScratch);
  tiles_.out = next(kBlockRows * kTileCols);
  tiles_.second = next(kTileRows * kTileCols);
  tiles_.panel = next(kPanelRows * kTileCols);
  tiles_.masked = next(kTileRows * kMaskCols);
  tiles_.thin = at;
}

Workspace::Lease::~Lease() {
  const std::lock_guard lock(workspace_.mutex_);
  workspace_.free_.push_back(index_);
}

}  // namespace lema::cpu
