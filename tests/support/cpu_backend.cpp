// Kernel tests on the CPU, which works where the arguments lie.
#include "support/backend.h"

namespace lema::test {

std::unique_ptr<Device> make_test_device() { return make_cpu_device(); }

std::unique_ptr<Ops> make_test_ops(int threads, const OpsLimits& limits) {
  return make_cpu_ops(threads, limits);
}

bool tests_cpu() { return true; }

}  // namespace lema::test
