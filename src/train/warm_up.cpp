// One set of kernels as the run's own, one call after the other.
#include "train/warm_up.h"

#include <set>
#include <string>

#include "train/kernel_setup.h"

namespace lema {
namespace {

bool has_products(Kernel kernel) {
  switch (kernel) {
    case Kernel::Linear:
    case Kernel::LinearBackward:
    case Kernel::HeadChunk:
    case Kernel::HeadWeightBackward:
      return true;
    default:
      return false;
  }
}

}  // namespace

void warm_up(const Backend& backend, int threads, const OpsLimits& limits,
             std::span<const KernelCall> calls) {
  Device& device = *backend.device;
  const std::unique_ptr<Ops> ops = backend.ops.make(device, threads, limits);
  std::set<std::string> seen;
  const auto run_once = [&](const KernelCall& call) {
    if (!seen.insert(call.key()).second) return;
    const KernelSetup setup(device, *ops, call, KernelSetup::Values::Zero);
    setup.run();
    device.synchronize(Queue::Compute);
  };
  for (KernelCall call : calls) {
    if (!has_products(call.kernel)) {
      run_once(call);
      continue;
    }
    call.rows = limits.rows;
    run_once(call);
    for (call.rows = row_class(limits.rows) / 2; call.rows > 0; call.rows /= 2) run_once(call);
  }
}

}  // namespace lema
