// KernelBench: measures calls of Ops at their real shapes, random values in, on the machine it runs
// on. Used by `lema bench` and, through MachineRates, by the plan.
#pragma once

#include <memory>

#include "model/backend.h"
#include "train/kernel_call.h"

namespace lema {

class KernelBench {
 public:
  // `backend` outlives the object.
  KernelBench(const Backend& backend, int threads) : backend_(backend), threads_(threads) {}

  // Seconds of a call whose operands lie in memory: the median of a few. On the CPU a call of many
  // rows or columns is measured on a part of them that has the same tiles, and scaled.
  double seconds(const KernelCall& call);
  // Bytes a second of copies between host buffers and the device, far larger than caches.
  double copy_rate() const;

 private:
  double measure(const KernelCall& call);

  const Backend& backend_;
  int threads_;
  Buffer cold_;  // allocated when something is measured
};

}  // namespace lema
