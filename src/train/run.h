// A training run from config to last checkpoint: what `lema train` does. Reads model and data,
// plans, resumes, steps, evaluates, saves.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "formats/run_config.h"

namespace lema {

struct RunOptions {
  // nullopt: a fresh run, whose output_dir must hold no checkpoints; "": resume from the newest in
  // output_dir; else from this checkpoint folder.
  std::optional<std::string> resume;
  // What may differ from the checkpoint's run: model, data, text, config, plan.
  std::set<std::string> accepted;
};

struct RunSummary {
  int64_t steps = 0;
  std::optional<double> last_loss;  // absent where no step was left to do
  std::string checkpoint;           // the last one
};

// Holds output_dir alone from begin to end (FolderLock). Usage error when it holds checkpoints and
// `resume` is absent. After a signal, or once there is a file `stop` in output_dir, Interrupted
// (75): the step was finished and saved; InterruptedEmpty before the first step, with nothing
// written. After SIGUSR1 the step is saved and the run goes on.
RunSummary run_training(const RunConfig& config, const RunOptions& options);

// A row of the training set, its loss and the gradient that it alone gives.
struct RowReplay {
  int64_t row = 0;    // from 0, in the order of the files
  std::string place;  // FILE:LINE
  int64_t tokens = 0, trained_tokens = 0;
  double loss = 0, grad_norm = 0;  // what exit code 5 is about may be in them
};

// `lema train --rows`: what these rows do at the run's start, or at the checkpoint of
// options.resume. Trains and writes nothing. Usage for a row that is not there.
std::vector<RowReplay> replay_rows(const RunConfig& config, const RunOptions& options,
                                   const std::vector<int64_t>& rows);

}  // namespace lema
