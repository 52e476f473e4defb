// What a run will take and how long its steps will, without running it: `lema plan` and `lema train
// --dry-run`. And the settings with which it takes less.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "train/fit.h"
#include "train/run_inputs.h"
#include "train/run_plan.h"
#include "train/step_time.h"

namespace lema {

// make_run_plan, for this machine: DoesNotFit also where the host's memory is too small, and always
// with the nearest settings that fit.
RunPlan plan_or_refuse(const RunConfig& config, const RunModel& model, const Device& device,
                       const OpsFactory& ops, const DataFacts& data);

// What is known of a run before it starts.
struct Forecast {
  RunPlan plan;
  // On a GPU, what the driver counts with all kernels loaded, before the run's buffers; else 0.
  int64_t loaded_bytes = 0;
  int64_t parameters = 0, steps = 0;
  std::optional<StepTime> time;  // of a step; unknown where its kernels were not measured

  std::string text() const;  // the table, for people
  Value to_value() const;    // the same, as plan.json
};

class PlannedRun {
 public:
  // Reads model and data; checkpoint: that the run goes on from. Errors as of RunInputs,
  // open_init_adapter and open_backend.
  // any_order: its steps may hold other rows than a fresh run's.
  explicit PlannedRun(const RunConfig& config, const fs::path& checkpoint = {},
                      bool any_order = false);

  // DoesNotFit as plan_or_refuse. On a GPU all kernels are loaded first, for what is free then.
  // What is not known of the machine is measured while less than `budget` seconds have gone into
  // it; 0: not at all.
  Forecast forecast(double budget);
  FitResult fit(const FitGoal& goal, double budget);
  // Of a step. DoesNotFit as plan_or_refuse.
  StepTrace trace() const;

  // With the settings of the adapter that the run starts from.
  const RunConfig& config() const { return config_; }
  const RunInputs& inputs() const { return inputs_; }
  const DataFacts& data() const { return data_; }
  // null for a fresh one, and once it was forgotten.
  const Adapter* start() const { return start_ ? &*start_ : nullptr; }
  void forget_start() { start_.reset(); }
  // The device that it was planned for; nothing is planned any more.
  Backend take_backend() { return std::move(backend_); }

 private:
  RunPlan plan() const;
  // On a GPU, so that no step loads anything: the kernels of steps and evaluations run once.
  // Returns the bytes that the driver counts then; 0 on the CPU. DoesNotFit as plan_or_refuse.
  int64_t load_kernels() const;
  // The config with the budgets of its plan: that of host memory where it can run, and the
  // device's now, of which measuring takes some.
  RunConfig as_planned() const;
  StepTrace trace_of(const RunConfig& config, const RunPlan& plan, const DataFacts& data) const;
  std::optional<StepTime> time_of(const RunPlan& plan, const StepTrace& trace, MachineRates& rates,
                                  double budget) const;
  MachineRates rates() const { return {backend_, static_cast<int>(config_.threads)}; }

  RunConfig config_;
  RunInputs inputs_;
  std::optional<Adapter> start_;
  DataFacts data_;
  RunModel model_;
  Backend backend_;
};

}  // namespace lema
