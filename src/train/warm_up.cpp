// One set of kernels as the run's own, one call after the other.
#include "train/warm_up.h"

#include "train/kernel_setup.h"

namespace lema {

void warm_up(const Backend& backend, int threads, const OpsLimits& limits,
             std::span<const KernelCall> calls) {
  constexpr int64_t kFewestRows = 64;
  Device& device = *backend.device;
  const std::unique_ptr<Ops> ops = backend.ops.make(device, threads, limits);
  const auto run_once = [&](const KernelCall& call) {
    const KernelSetup setup(device, *ops, call, KernelSetup::Values::Zero);
    setup.run();
    device.synchronize(Queue::Compute);
  };
  for (const KernelCall& call : calls) {
    run_once(call);
    KernelCall fewer = call;
    if (call.kernel == Kernel::Linear || call.kernel == Kernel::LinearBackward)
      while ((fewer.rows /= 2) >= kFewestRows) run_once(fewer);
  }
}

}  // namespace lema
