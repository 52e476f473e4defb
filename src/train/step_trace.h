// The trace of a training step: what the Trainer would submit, as shapes and bytes, without memory
// or arithmetic. Made by running the real Trainer over a device that moves nothing, a reader of
// weights that reads nothing and kernels that note their arguments, so it is what a step does, but
// for the embedding's rows where a step reads those from disk. The plan predicts times from it.
#pragma once

#include <vector>

#include "stream/simulate.h"
#include "train/kernel_call.h"
#include "train/run_plan.h"

namespace lema {

// An item of a trace: a kernel call (Work on Compute), a copy (Work on its queue's lane), a read of
// weights (Work on Disk, or on Host where who computes copies them out of the page cache), or an
// event.
struct StepItem {
  TraceItem item;     // seconds are not yet known
  int64_t call = -1;  // index of StepTrace::calls
  int64_t bytes = 0;  // of a copy or a read

  bool is_read() const {
    return bytes > 0 && (item.lane == Lane::Disk || item.lane == Lane::Host);
  }
};

struct StepTrace {
  std::vector<StepItem> items;
  std::vector<KernelCall> calls;      // distinct
  std::vector<KernelCall> run_calls;  // of steps and evaluations, distinct

  bool reads_from_disk() const;
};

// Of a step of the size of the run's mean step, with rows whose attention costs what the run's rows
// cost on average. `plan`: of this config, folder and start. `like`: the device of the run.
// evaluates: the run has rows to evaluate.
StepTrace trace_step(const RunConfig& config, const ModelFolder& folder, const RunPlan& plan,
                     const Device& like, const OpsFactory& ops, const Adapter* start,
                     bool evaluates);

}  // namespace lema
