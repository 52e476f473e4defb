// The choice between the two backends.
#include "model/backend.h"

#include "core/log.h"

namespace lema {
namespace {

Backend open_gpu() {
  return {make_cuda_device(0), [](Device& device, int, const OpsLimits& limits) {
            return make_cuda_ops(device, limits);
          }};
}

Backend open_cpu() {
  return {make_cpu_device(), [](Device&, int threads, const OpsLimits& limits) {
            return make_cpu_ops(threads, limits);
          }};
}

}  // namespace

Backend open_backend(const std::string& device) {
  if (device == "cuda") return open_gpu();
  if (device == "cpu" || !cuda_is_built()) return open_cpu();
  check(device == "auto", "device {}", device);
  try {
    return open_gpu();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::Usage) throw;
    log::info("{}: the CPU is used", error.what());
    return open_cpu();
  }
}

}  // namespace lema
