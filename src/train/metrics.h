// Metrics: one JSON object per optimizer step in metrics.jsonl, and a line of progress for people.
#pragma once

#include <string>

#include "core/file.h"
#include "train/trainer.h"

namespace lema {

struct StepMetrics {
  int64_t step = 0, total_steps = 0;  // 1-based, of all
  double epoch = 0, lr = 0;
  StepResult result;
  double step_ms = 0;
  double loss_scale = 1;  // that the step's gradients had
  int64_t h2d_bytes = 0, d2h_bytes = 0, disk_bytes = 0;  // of this step
  double stall_ms = 0;                                   // of it: compute waiting for weights
  int64_t vram_bytes = 0;  // the driver's count, less what it was before the run's buffers; 0: CPU
};

class Metrics {
 public:
  // Appends to output_dir/metrics.jsonl; on resume, lines after `resumed_step` are dropped first,
  // and what a crash has cut or garbled behind them; where the step's evaluation is done again, its
  // line too. What cannot be read before them stays, said in the log.
  Metrics(const fs::path& output_dir, int64_t resumed_step, bool evaluates_again);
  void step(const StepMetrics& m, bool show);
  void evaluation(int64_t step, double eval_loss, int64_t targets);
  // To the disk: a checkpoint's steps are in the file when the checkpoint is there.
  void sync() { file_.sync(); }

 private:
  void append(const std::string& line);
  fs::path path_;
  File file_;
  double step_seconds_ = 0;  // smoothed, for the time left
};

}  // namespace lema
