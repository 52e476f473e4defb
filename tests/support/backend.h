// The backend that a kernel test runs on. The tests are compiled once and linked with one of two
// definitions: cpu_backend.cpp, or cuda_backend.cpp for the label `gpu`.
#pragma once

#include <memory>

#include "ops.h"

namespace lema::test {

std::unique_ptr<Device> make_test_device();

// Kernels whose arguments lie in host memory, wherever they run.
std::unique_ptr<Ops> make_test_ops(int threads, const OpsLimits& limits);

// False on CUDA, where `threads` means nothing and attention on bf16 rounds P before it multiplies.
bool tests_cpu();

}  // namespace lema::test
