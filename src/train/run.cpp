// The training loop around Trainer::train_step.
#include "train/run.h"

#include <chrono>
#include <cmath>
#include <random>

#include "core/log.h"
#include "core/signals.h"
#include "core/units.h"
#include "formats/json.h"
#include "train/checkpoint.h"
#include "train/lr_schedule.h"
#include "train/metrics.h"
#include "train/plan_training.h"
#include "train/run_folder.h"

namespace lema {
namespace {

using Clock = std::chrono::steady_clock;

// In output_dir: whoever makes it stops the run as a signal does.
constexpr const char* kStopFile = "stop";

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

std::string make_run_id() {
  std::random_device random;
  return fmt::format("{:08x}{:08x}", random(), random());
}

// The checkpoint to go on from, "" for a fresh run. Looked for before any work, which a used folder
// would make vain.
fs::path first_checkpoint(const RunConfig& config, const RunOptions& options) {
  if (options.resume)
    return options.resume->empty() ? newest_checkpoint(config.output_dir)
                                   : fs::path(*options.resume);
  if (has_checkpoints(config.output_dir))
    fail(ErrorCode::Usage,
         "{}: holds a run already; continue it with --resume or name another output_dir",
         config.output_dir);
  return "";
}

class Run {
 public:
  Run(const RunConfig& config, const RunOptions& options)
      : options_(options),
        output_(config.output_dir),
        lock_(output_),
        saved_(first_checkpoint(config, options)),
        planned_(config, saved_),
        config_(planned_.config()),
        train_(planned_.inputs().data.train),
        eval_(planned_.inputs().data.eval),
        batcher_(static_cast<int64_t>(train_.rows.size()), config.train.batch_size,
                 static_cast<uint64_t>(config.seed), config.data.shuffle) {
    schedule_ = {config.schedule.name, config.optimizer.lr, 0,
                 batcher_.total_steps(config.train.epochs, config.train.max_steps),
                 config.schedule.min_lr_ratio};
    schedule_.warmup_steps = warmup_steps(config.schedule.warmup, schedule_.total_steps);
    describe();
  }

  RunSummary run() {
    const Forecast forecast = planned_.forecast(0);
    const RunPlan& plan = forecast.plan;
    log::info("memory plan\n{}", forecast.text());
    if (plan.placement.weights.slots + plan.placement.host.slots == 0 && config_.memory.slots > 0)
      log::warn("all weights are at hand: memory.slots has no effect");
    log::info("{} trained parameters on {}, compute {}", forecast.parameters, plan.numeric.backend,
              name(plan.numeric.compute));
    const RunInputs& inputs = planned_.inputs();
    settled_ = settled(config_, plan);
    trainer_ = std::make_unique<Trainer>(settled_, inputs.folder, open_backend(config_.device),
                                         planned_.data(), planned_.start());
    identity_ = run_identity(config_, inputs.folder, inputs.text_fingerprint, plan.numeric);
    if (saved_.empty())
      trainer_->initialise_adapter();
    else
      resume();
    planned_.forget_start();
    StopSignals::check();
    open_output(forecast);
    Metrics metrics(output_, state_.step);
    loop(metrics);
    return {state_.step, last_loss_, saved_.string()};
  }

 private:
  void describe() const {
    log::info("{}: {} rows ({}), {} tokens, {} of them trained; {} steps of {} rows", train_.path,
              train_.rows.size(), train_.format, train_.tokens, train_.trained_tokens,
              schedule_.total_steps, config_.train.batch_size);
  }

  void resume() {
    state_ = load_checkpoint(saved_, *trainer_, identity_, options_.accepted);
    // Of other data the place may be beyond the end.
    if (state_.cursor.position >= std::ssize(train_.rows))
      state_.cursor = {state_.cursor.epoch + 1, 0};
  }

  // The run folder: fresh, or continued from a checkpoint.
  void open_output(const Forecast& forecast) {
    check_free_space(output_, checkpoint_bytes(*trainer_));
    remove_leftovers(output_);
    remove_file(output_ / kStopFile);  // of a run before this one
    if (saved_.empty()) {
      state_.run_id = make_run_id();
    } else {
      std::optional<int64_t> best_step;
      if (state_.best_eval_loss) best_step = state_.best_step;
      if (!enter_run(output_, state_.run_id, state_.step, best_step))
        state_.best_eval_loss.reset();
      log::info("resumed from {} at step {}", saved_.string(), state_.step);
    }
    write_file(output_ / "run.json", dump_json(to_value(config_), 2) + "\n");
    write_bad_rows(planned_.inputs().data, output_ / "bad_rows.jsonl");
    write_file(output_ / "plan.json", dump_json(forecast.to_value(), 2) + "\n");
    log::add_file(output_ / "train.log");
  }

  void loop(Metrics& metrics) {
    const int64_t total = schedule_.total_steps;
    while (state_.step < total) {
      const auto start = Clock::now();
      const int64_t h2d = trainer_->h2d_bytes(), d2h = trainer_->d2h_bytes();
      const int64_t disk = trainer_->disk_bytes();
      const double stall = trainer_->stall_ms();
      const std::vector<int64_t> rows = batcher_.next(state_.cursor);
      const StepBatch batch =
          make_step_batch(train_, rows, trainer_->plan().bounds.micro_rows, config_.data.packing);
      StepMetrics m;
      m.lr = schedule_.at(state_.step);
      m.loss_scale = static_cast<double>(trainer_->loss_scale().scale());
      m.result = trainer_->train_step(batch, m.lr, state_.step);
      check_finite(m.result, rows);
      ++state_.step;
      state_.tokens_seen += batch.tokens;
      last_loss_ = m.result.loss;
      m.step = state_.step;
      m.total_steps = total;
      m.epoch = static_cast<double>(state_.step) / static_cast<double>(batcher_.steps_per_epoch());
      m.step_ms = milliseconds_since(start);
      m.h2d_bytes = trainer_->h2d_bytes() - h2d;
      m.d2h_bytes = trainer_->d2h_bytes() - d2h;
      m.disk_bytes = trainer_->disk_bytes() - disk;
      m.stall_ms = trainer_->stall_ms() - stall;
      metrics.step(m, state_.step % config_.log.every_steps == 0 || state_.step == total);
      after_step(metrics);
    }
    if (saved_.empty()) save({}, metrics);  // a run of no steps
  }

  void check_finite(const StepResult& result, const std::vector<int64_t>& rows) const {
    if (std::isfinite(result.loss) && (std::isfinite(result.grad_norm) || result.skipped)) return;
    std::string places;
    for (int64_t row : rows) places += " " + train_.place(train_.rows[static_cast<size_t>(row)]);
    fail(ErrorCode::Numeric,
         "step {}: loss {}, gradient norm {}; rows{}; the last checkpoint stands", state_.step + 1,
         result.loss, result.grad_norm, places);
  }

  void after_step(Metrics& metrics) {
    const auto is_due = [&](int64_t every) { return every > 0 && state_.step % every == 0; };
    const bool last = state_.step == schedule_.total_steps;
    const bool due = last || is_due(config_.checkpoint.every_steps);
    std::optional<double> loss;
    if (eval_ && (due || is_due(config_.eval.every_steps))) loss = evaluate(metrics);
    const bool stops = stop_requested(), wanted = StopSignals::take_save_request();
    if (!due && !stops && !wanted) return;
    save(loss, metrics);
    if (last || !stop_requested()) return;
    remove_file(output_ / kStopFile);
    fail(ErrorCode::Interrupted, "stopped at step {}; continue with --resume", state_.step);
  }

  bool stop_requested() const {
    std::error_code error;
    return StopSignals::requested() || fs::exists(output_ / kStopFile, error);
  }

  // `loss`: this step's over the evaluation set, where there is one.
  void save(std::optional<double> loss, Metrics& metrics) {
    const bool improved = loss && config_.checkpoint.best.value_or(true) &&
                          (!state_.best_eval_loss || *loss < *state_.best_eval_loss);
    if (improved) {
      state_.best_eval_loss = loss;
      state_.best_step = state_.step;
    }
    try {
      metrics.sync();
      saved_ = save_checkpoint(output_, *trainer_, state_, identity_, config_.model,
                               planned_.inputs().chat_template);
      if (improved) mark_best(output_, saved_);
      prune_checkpoints(output_, config_.checkpoint.keep);
    } catch (const Error& error) {
      throw Error(error.code(),
                  fmt::format("step {} is not saved: {}; {}", state_.step, error.what(),
                              saved_.empty() ? "nothing was saved before"
                                             : saved_.string() + " stands"));
    }
    log::info("saved {}", saved_.string());
  }

  // Mean loss over the evaluation set; nullopt when a signal asks to stop.
  std::optional<double> evaluate(Metrics& metrics) {
    double sum = 0;
    int64_t targets = 0;
    Batcher order(static_cast<int64_t>(eval_->rows.size()), config_.train.batch_size, 0, false);
    BatchCursor cursor;
    for (int64_t step = 0; step < order.steps_per_epoch(); ++step) {
      if (StopSignals::requested()) return std::nullopt;
      const StepBatch batch = make_step_batch(
          *eval_, order.next(cursor), trainer_->plan().bounds.micro_rows, config_.data.packing);
      sum += trainer_->evaluate(batch);
      targets += batch.trained_tokens;
    }
    const double loss = sum / static_cast<double>(targets);
    if (!std::isfinite(loss))
      fail(ErrorCode::Numeric,
           "step {}: the evaluation loss is {} over {}; the last checkpoint stands", state_.step,
           loss, eval_->path);
    metrics.evaluation(state_.step, loss, targets);
    return loss;
  }

  const StopSignals signals_;
  const RunOptions& options_;
  fs::path output_;
  const FolderLock lock_;
  fs::path saved_;  // the last checkpoint
  PlannedRun planned_;
  const RunConfig& config_;  // with the settings of the adapter that it starts from
  RunConfig settled_;        // the trainer's
  const Dataset& train_;
  const std::optional<Dataset>& eval_;
  Batcher batcher_;
  LrSchedule schedule_;
  std::unique_ptr<Trainer> trainer_;
  RunIdentity identity_;
  TrainState state_;
  std::optional<double> last_loss_;
};

}  // namespace

RunSummary run_training(const RunConfig& config, const RunOptions& options) {
  return Run(config, options).run();
}

}  // namespace lema
