// The predicted time of a training step: its trace, with measured times of its parts, through the
// simulator.
#pragma once

#include <optional>

#include "train/machine_rates.h"
#include "train/step_trace.h"

namespace lema {

struct StepTime {
  double seconds = 0;
  double stall = 0;  // compute waits for copies, or for the disk
  double disk = 0;   // reads of weights take
};

// nullopt where the rate of one of its calls is not known and `budget` is 0, see MachineRates.
// in_line: the device does copies where they are submitted (the CPU). read_rate: bytes a second of
// reads of weights.
std::optional<StepTime> predict_step(const StepTrace& trace, MachineRates& rates, double budget,
                                     bool in_line, double read_rate);

}  // namespace lema
