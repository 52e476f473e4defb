// The predicted time of a training step: its trace, with measured times of its parts, through the
// simulator.
#pragma once

#include <optional>
#include <vector>

#include "train/machine_rates.h"
#include "train/step_trace.h"

namespace lema {

struct StepTime {
  double seconds = 0;
  double stall = 0;  // compute waits for copies, or for the disk
  double disk = 0;   // reads of weights take
  struct Share {
    KernelCall call;
    int64_t count = 0;
    double seconds = 0;  // of one
  };
  std::vector<Share> shares;  // longest in all first
};

// How weights come from disk.
struct DiskReads {
  double rate = 1;      // bytes a second
  bool by_cpu = false;  // who computes also copies them, out of the page cache
};

// nullopt where the rate of one of its calls is not known and `budget` is 0, see MachineRates.
// in_line: the device does copies where they are submitted (the CPU).
std::optional<StepTime> predict_step(const StepTrace& trace, MachineRates& rates, double budget,
                                     bool in_line, const DiskReads& reads);

}  // namespace lema
