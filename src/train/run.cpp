// The training loop around Trainer::train_step.
#include "train/run.h"

#include <chrono>
#include <cmath>
#include <random>

#include "core/log.h"
#include "core/signals.h"
#include "core/units.h"
#include "data/model_text.h"
#include "data/prepare_data.h"
#include "formats/json.h"
#include "formats/peft_adapter.h"
#include "model/backend.h"
#include "train/checkpoint.h"
#include "train/init_adapter.h"
#include "train/lr_schedule.h"
#include "train/metrics.h"

namespace lema {
namespace {

using Clock = std::chrono::steady_clock;

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
  if (options.dry_run) return "";
  if (options.resume)
    return options.resume->empty() ? newest_checkpoint(config.output_dir)
                                   : fs::path(*options.resume);
  if (has_checkpoints(config.output_dir))
    fail(ErrorCode::Usage,
         "{}: holds a run already; continue it with --resume or name another output_dir",
         config.output_dir);
  return "";
}

// The template that the run's conversations are written by, "" for the model's own: the one that is
// set, else what the adapter brings along that the run goes on from.
std::string run_template(const RunConfig& config, const fs::path& checkpoint) {
  const fs::path adapter = checkpoint.empty() ? fs::path(config.lora.init_from) : checkpoint;
  const auto brought = adapter.empty() ? std::nullopt : adapter_template(adapter);
  if (!brought) return config.data.chat_template;
  if (config.data.chat_template.empty()) {
    log::info("{}: the run's chat template", brought->string());
    return brought->string();
  }
  if (checkpoint.empty())
    log::warn("{} was trained with {}; this run takes data.chat_template {}",
              config.lora.init_from, brought->string(), config.data.chat_template);
  return config.data.chat_template;
}

class Run {
 public:
  Run(const RunConfig& config, const RunOptions& options)
      : config_(config),
        options_(options),
        output_(config.output_dir),
        saved_(first_checkpoint(config, options)),
        folder_(config.model),
        text_(load_model_text(folder_, run_template(config, saved_),
                              Value(Value::Object(config.data.chat_template_kwargs)))),
        chat_template_(text_.adapter_template()),
        data_(prepare_data(config.data, cache_folder(config.data, output_), text_)),
        train_(data_.train),
        eval_(data_.eval),
        batcher_(static_cast<int64_t>(train_.rows.size()), config.train.batch_size,
                 static_cast<uint64_t>(config.seed), config.data.shuffle) {
    schedule_ = {config.schedule.name, config.optimizer.lr, 0,
                 batcher_.total_steps(config.train.epochs, config.train.max_steps),
                 config.schedule.min_lr_ratio};
    schedule_.warmup_steps = warmup_steps(config.schedule.warmup, schedule_.total_steps);
    describe();
  }

  RunSummary run() {
    const StopSignals signals;
    start_ = open_init_adapter(config_, folder_);
    Backend backend = open_backend(config_.device);
    trainer_ =
        std::make_unique<Trainer>(config_, folder_, std::move(backend.device), backend.make_ops,
                                  step_bounds(config_, &train_, eval_ ? &*eval_ : nullptr),
                                  start_ ? &*start_ : nullptr);
    log::info("{} trained parameters on {}, compute {}", trainer_->adapter().parameter_count(),
              trainer_->backend_name(), name(trainer_->numeric_plan().compute));
    if (options_.dry_run) return {schedule_.total_steps, {}, ""};
    identity_ = run_identity(config_, folder_, text_, trainer_->numeric_plan());
    if (saved_.empty())
      trainer_->initialise_adapter();
    else
      state_ = load_checkpoint(saved_, *trainer_, identity_);
    if (StopSignals::requested())
      fail(ErrorCode::InterruptedEmpty, "stopped before the first step");
    open_output();
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

  // The run folder: fresh, or continued from a checkpoint.
  void open_output() {
    std::error_code error;
    fs::create_directories(output_, error);
    if (error)
      fail(ErrorCode::Io, "{}: cannot create folder: {}", output_.string(), error.message());
    if (saved_.empty()) {
      state_.run_id = make_run_id();
    } else {
      enter_run(output_, state_);
      log::info("resumed from {} at step {}", saved_.string(), state_.step);
    }
    write_file(output_ / "run.json", dump_json(to_value(config_), 2) + "\n");
    Value plan = trainer_->plan().to_value();
    plan.set("numeric", trainer_->numeric_plan().to_value());
    write_bad_rows(data_, output_ / "bad_rows.jsonl");
    write_file(output_ / "plan.json", dump_json(plan, 2) + "\n");
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
          make_step_batch(train_, rows, trainer_->bounds().micro_rows, config_.data.packing);
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
    if (saved_.empty()) save({});  // a run of no steps
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
    const bool interrupted = StopSignals::requested();
    if (due || interrupted) save(loss);
    if (interrupted && !last)
      fail(ErrorCode::Interrupted, "stopped at step {}; continue with --resume", state_.step);
  }

  // `loss`: this step's over the evaluation set, where there is one.
  void save(std::optional<double> loss) {
    const bool improved = loss && config_.checkpoint.best.value_or(true) &&
                          (!state_.best_eval_loss || *loss < *state_.best_eval_loss);
    if (improved) {
      state_.best_eval_loss = loss;
      state_.best_step = state_.step;
    }
    saved_ = save_checkpoint(output_, *trainer_, state_, identity_, config_.model, chat_template_);
    if (improved) mark_best(output_, saved_);
    prune_checkpoints(output_, config_.checkpoint.keep);
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
      const StepBatch batch = make_step_batch(*eval_, order.next(cursor),
                                              trainer_->bounds().micro_rows, config_.data.packing);
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

  RunConfig config_;  // with the settings of the adapter that it starts from
  const RunOptions& options_;
  fs::path output_;
  fs::path saved_;  // the last checkpoint
  ModelFolder folder_;
  ModelText text_;
  std::string chat_template_;  // that the adapter brings along, "" for the model's own
  PreparedData data_;
  const Dataset& train_;
  const std::optional<Dataset>& eval_;
  Batcher batcher_;
  LrSchedule schedule_;
  std::optional<Adapter> start_;
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
