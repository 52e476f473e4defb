// The choice between the two backends.
#include "model/backend.h"

#include "core/log.h"

namespace lema {
namespace {

Backend open_gpu(int number = 0) { return {make_cuda_device(number), cuda_ops()}; }

Backend open_cpu() { return {make_cpu_device(), cpu_ops()}; }

}  // namespace

OpsFactory cpu_ops() {
  return {
      [](Device&, int threads, const OpsLimits& limits) { return make_cpu_ops(threads, limits); },
      cpu_scratch_bytes};
}

OpsFactory cuda_ops() {
  return {
      [](Device& device, int, const OpsLimits& limits) { return make_cuda_ops(device, limits); },
      [](int, const OpsLimits& limits) { return cuda_scratch_bytes(limits); }};
}

Backend open_backend(const std::string& device) {
  constexpr std::string_view kNumbered = "cuda:";
  if (device.starts_with(kNumbered)) return open_gpu(std::stoi(device.substr(kNumbered.size())));
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
