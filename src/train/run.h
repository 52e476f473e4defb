// A training run from config to last checkpoint: what `lema train` does. Reads model and data,
// plans, resumes, steps, evaluates, saves.
#pragma once

#include <optional>
#include <string>

#include "formats/run_config.h"

namespace lema {

struct RunOptions {
  // nullopt: a fresh run, whose output_dir must hold no checkpoints; "": resume from the newest in
  // output_dir; else from this checkpoint folder.
  std::optional<std::string> resume;
  bool dry_run = false;  // plan and data check only
};

struct RunSummary {
  int64_t steps = 0;
  double last_loss = 0;
  std::string checkpoint;  // the last one written; "" in a dry run
};

// Usage error when output_dir was used before and `resume` is absent. Interrupted (75) after a
// signal: the step was finished and saved.
RunSummary run_training(const RunConfig& config, const RunOptions& options);

}  // namespace lema
