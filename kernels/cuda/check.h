// Status checks of CUDA calls: each names what was being done. Used by everything in kernels/cuda.
#pragma once

#include <cuda_runtime_api.h>

#include "core/error.h"

namespace lema::cuda {

// Throws for a status that is not success, and clears it: DoesNotFit when memory ran out, Internal
// otherwise. Faults of kernels surface at a later call, which the message says.
[[noreturn]] void fail_cuda(cudaError_t status, const std::string& doing);

// cuda_check(cudaMemcpyAsync(...), "copying {} bytes to the device", bytes).
template <typename... Args>
void cuda_check(cudaError_t status, fmt::format_string<Args...> format, Args&&... args) {
  if (status != cudaSuccess) [[unlikely]]
    fail_cuda(status, fmt::format(format, std::forward<Args>(args)...));
}

// After each launch; `kernel` names it. CUDA_LAUNCH_BLOCKING=1 makes faults surface here.
inline void check_launch(const char* kernel) {
  cuda_check(cudaGetLastError(), "launching kernel {}", kernel);
}

}  // namespace lema::cuda
