// KernelSetup: a call of Ops by its shapes (kernel_call.h), made runnable: operands on the device
// and the call on them. KernelBench measures it, warm_up() runs it once.
#pragma once

#include <functional>
#include <memory>

#include "train/kernel_call.h"

namespace lema {

class KernelSetup {
 public:
  enum class Values { Random, Zero };

  // Allocates; `device` and `ops`, whose limits allow the call, outlive the object.
  KernelSetup(Device& device, Ops& ops, const KernelCall& call, Values values);
  ~KernelSetup();
  KernelSetup(const KernelSetup&) = delete;

  // Submits the call.
  void run() const { run_(); }
  // Brings into the caches, those of the CPU, what the call before it in a step has just written:
  // x, of a backward dy.
  void touch_input() const;

 private:
  struct Operands;
  std::unique_ptr<Operands> operands_;
  std::function<void()> run_;
};

}  // namespace lema
