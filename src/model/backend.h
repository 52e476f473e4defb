// Backend: a device and the kernels that run on it, chosen by name. Training and inference open one
// and build everything else upon it.
#pragma once

#include <memory>
#include <string>

#include "device.h"
#include "ops.h"

namespace lema {

// How the kernels of one kind of device are made, and how large their scratch will be.
struct OpsFactory {
  // threads: of the CPU's kernels, 0 for all.
  std::unique_ptr<Ops> (*make)(Device& device, int threads, const OpsLimits& limits);
  int64_t (*scratch_bytes)(int threads, const OpsLimits& limits);
};
OpsFactory cpu_ops();
OpsFactory cuda_ops();

struct Backend {
  std::unique_ptr<Device> device;
  OpsFactory ops;
};

// `device`: cpu, cuda:N (Usage error where that GPU cannot be used), cuda for the first one, or
// auto: the first one where it can be used, else the CPU, which the log says where CUDA is built.
Backend open_backend(const std::string& device);

}  // namespace lema
