// Backend: a device and the kernels that run on it, chosen by name. Training and inference open one
// and build everything else upon it.
#pragma once

#include <memory>
#include <string>

#include "device.h"
#include "ops.h"

namespace lema {

struct Backend {
  // threads: of the CPU's kernels, 0 for all.
  using OpsFactory = std::unique_ptr<Ops> (*)(Device& device, int threads, const OpsLimits& limits);
  std::unique_ptr<Device> device;
  OpsFactory make_ops;
};

// `device`: cpu, cuda (Usage error where there is no GPU that can be used), or auto: the GPU where
// there is one, else the CPU, which the log says where CUDA is built.
Backend open_backend(const std::string& device);

}  // namespace lema
