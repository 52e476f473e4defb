// A set-up of the call's shapes, then the call a few times.
#include "train/kernel_bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "train/kernel_setup.h"

namespace lema {
namespace {

constexpr double kLargestFlops = 4e9;  // of one measured call
constexpr int64_t kTileRows = 1024;    // rows and columns that a product is cut into at least
constexpr int64_t kLeastColumns = 384;
constexpr double kEnoughSeconds = 0.02;
constexpr int kLeastRuns = 3, kMostRuns = 5;
// Read before each measured run, so that it finds the caches as a step leaves them: full of other
// things, but for what the call before has written. 128 MiB.
constexpr int64_t kColdFloats = 32 << 20;
// Calls that a GPU is given at once, as in a step: what it costs to submit one is not the call's.
constexpr int kQueuedCalls = 8;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

OpsLimits limits_of(const KernelCall& call) {
  OpsLimits limits;
  limits.rows = limits.tokens = std::max<int64_t>(1, call.cols == 1 ? 1 : call.rows);
  limits.width = call.cols;
  for (const PartShape& part : call.parts) {
    limits.width = std::max(limits.width, part.out);
    limits.rank = std::max(limits.rank, part.rank);
    limits.dora |= part.magnitude;
  }
  if (call.kernel == Kernel::HeadChunk || call.kernel == Kernel::HeadWeightBackward)
    limits.vocab_chunk = call.inner;
  limits.heads = std::max<int64_t>(1, call.heads.H);
  limits.head_size = std::max<int64_t>(16, call.heads.D);
  return limits;
}

// A smaller call of the same kind, and how many times longer the call takes.
std::pair<KernelCall, double> reduced(const KernelCall& call) {
  KernelCall small = call;
  double factor = 1;
  const auto shrink = [&](int64_t& size, int64_t least) {
    const double times = call.flops() / factor / kLargestFlops;
    if (times <= 1 || size <= least) return;
    const int64_t to = std::max<int64_t>(least, std::llround(static_cast<double>(size) / times));
    factor *= static_cast<double>(size) / static_cast<double>(to);
    size = to;
  };
  switch (call.kernel) {
    case Kernel::Linear:
    case Kernel::LinearBackward:
      shrink(small.rows, kTileRows);
      if (call.parts.size() == 1) {
        shrink(small.parts[0].out, kLeastColumns);
      } else if (call.flops() / factor > 2 * kLargestFlops) {
        const double before = small.flops();
        for (PartShape& part : small.parts) part.out = std::min(part.out, kLeastColumns);
        factor *= before / small.flops();
      }
      break;
    case Kernel::HeadChunk:
    case Kernel::HeadWeightBackward:
      shrink(small.inner, kLeastColumns);
      shrink(small.rows, kTileRows);
      break;
    case Kernel::Attention:
    case Kernel::AttentionBackward:
      if (const double times = call.flops() / kLargestFlops; times > 1 && call.inner > 1) {
        small.inner = std::max<int64_t>(1, std::llround(static_cast<double>(call.inner) / times));
        small.rows = call.rows * small.inner / call.inner;
        factor = static_cast<double>(call.inner) / static_cast<double>(small.inner);
      }
      // One long sequence; in a window its time is in no such proportion to the rows.
      if (small.inner == 1 && call.heads.window == 0 && small.rows > kTileRows &&
          call.flops() / factor > 2 * kLargestFlops) {
        const double before = small.flops(), times = before / kLargestFlops;
        small.rows = std::max<int64_t>(
            kTileRows, std::llround(static_cast<double>(small.rows) / std::sqrt(times)));
        factor *= before / small.flops();
      }
      break;
    default:
      break;
  }
  return {small, factor};
}

}  // namespace

double KernelBench::measure(const KernelCall& call) {
  Device& device = *backend_.device;
  const std::unique_ptr<Ops> ops = backend_.ops.make(device, threads_, limits_of(call));
  const KernelSetup setup(device, *ops, call, KernelSetup::Values::Random);
  const int calls = device.reads_host_memory() ? 1 : kQueuedCalls;
  if (cold_.bytes() == 0) {
    cold_ = device.allocate(4 * (kColdFloats + 1), "kernel measurement");
    ops->fill({cold_.data(), DType::F32, {kColdFloats}}, 0);
  }
  const TensorView cold(cold_.data(), DType::F32, {kColdFloats}),
      norm(cold_.data() + cold.bytes(), DType::F32, {1});
  const auto timed = [&] {
    ops->squared_norm(norm, cold);
    device.synchronize(Queue::Compute);
    if (device.reads_host_memory()) setup.touch_input();
    const double start = now();
    for (int i = 0; i < calls; ++i) setup.run();
    device.synchronize(Queue::Compute);
    return (now() - start) / calls;
  };
  timed();
  std::vector<double> runs;
  double sum = 0;
  while (std::ssize(runs) < kMostRuns && (std::ssize(runs) < kLeastRuns || sum < kEnoughSeconds)) {
    runs.push_back(timed());
    sum += runs.back();
  }
  const auto middle = runs.begin() + std::ssize(runs) / 2;
  std::nth_element(runs.begin(), middle, runs.end());
  return *middle;
}

double KernelBench::seconds(const KernelCall& call) {
  if (!backend_.device->reads_host_memory()) return measure(call);
  const auto [small, factor] = reduced(call);
  return factor * measure(small);
}

double KernelBench::copy_rate() const {
  constexpr int64_t kBytes = 64 << 20;
  constexpr int kRuns = 3;
  Device& device = *backend_.device;
  const Buffer host = device.allocate_pinned(kBytes, "copy measurement"),
               there = device.allocate(kBytes, "copy measurement");
  std::memset(host.data(), 1, kBytes);
  double best = 0;
  for (int i = 0; i <= kRuns; ++i) {  // the first touches the pages
    const double start = now();
    device.copy_async(Queue::H2D, there.data(), host.data(), kBytes);
    device.synchronize(Queue::H2D);
    best = i == 0 ? 0 : std::max(best, kBytes / (now() - start));
  }
  return best;
}

}  // namespace lema
