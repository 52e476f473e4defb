// The training loop around Trainer::train_step.
#include "train/run.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <random>
#include <span>
#include <tuple>

#include "core/log.h"
#include "core/out_of_memory.h"
#include "core/signals.h"
#include "core/units.h"
#include "formats/json.h"
#include "train/checkpoint.h"
#include "train/lr_schedule.h"
#include "train/metrics.h"
#include "train/plan_training.h"
#include "train/run_folder.h"
#include "train/weights_checksum.h"

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
fs::path first_checkpoint(const RunConfig& config, const RunOptions& options, bool writes) {
  if (options.resume)
    return options.resume->empty() ? newest_checkpoint(config.output_dir)
                                   : fs::path(*options.resume);
  if (writes && has_checkpoints(config.output_dir))
    fail(ErrorCode::Usage,
         "{}: holds a run already; continue it with --resume or name another output_dir",
         config.output_dir);
  return "";
}

// A `stop` file from here on is meant for this run.
std::unique_ptr<FolderLock> lock_folder(const RunConfig& config) {
  const fs::path output = config.output_dir;
  check_outside(output, config.model);
  if (is_there(output / "config.json"))
    fail(ErrorCode::Usage, "{}: holds a config.json, as of a model; name another output_dir",
         output.string());
  auto lock = std::make_unique<FolderLock>(output);
  remove_file(output / kStopFile);
  return lock;
}

class Run {
 public:
  enum class Purpose { Train, Replay };
  Run(const RunConfig& config, const RunOptions& options, Purpose purpose)
      : options_(options),
        output_(config.output_dir),
        lock_(purpose == Purpose::Train ? lock_folder(config) : nullptr),
        saved_(first_checkpoint(config, options, purpose == Purpose::Train)),
        planned_(config, saved_, purpose == Purpose::Replay || !options.accepted.empty()),
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
    or_out_of_memory("preparing the run", [&] {
      const Forecast forecast = prepare();
      StopSignals::check();
      open_output(forecast);
    });
    try {
      or_out_of_memory("training", [&] {
        Metrics metrics(output_, state_.step, state_.owes_evaluation && eval_);
        if (state_.owes_evaluation && eval_) catch_up(metrics);
        loop(metrics);
      });
    } catch (const Error& error) {
      if (error.code() == ErrorCode::Interrupted) throw;
      throw Error(error.code(), fmt::format("{}; {}", error.what(), standing()));
    }
    return {state_.step, last_loss_, saved_.string()};
  }

  std::vector<RowReplay> replay(const std::vector<int64_t>& rows) {
    for (const int64_t row : rows)
      if (row < 0 || row >= std::ssize(train_.rows))
        fail(ErrorCode::Usage, "--rows: {} has rows 0 to {}, found {}", train_.path,
             train_.rows.size() - 1, row);
    prepare();
    std::vector<RowReplay> replays;
    for (const int64_t row : rows) {
      StopSignals::check();
      const StepResult r = probe({&row, 1});
      replays.push_back({row, train_.place(train_.rows[static_cast<size_t>(row)]), r.tokens,
                         r.trained_tokens, r.loss, r.grad_norm});
    }
    return replays;
  }

 private:
  void describe() const {
    log::info("{}: {} rows ({}), {} tokens, {} of them trained; {} steps of {} rows", train_.path,
              train_.rows.size(), train_.format, train_.tokens, train_.trained_tokens,
              schedule_.total_steps, config_.train.batch_size);
  }

  // The trainer, at its start or at the checkpoint; and its plan.
  Forecast prepare() {
    Forecast forecast = planned_.forecast(0);
    loaded_bytes_ = forecast.loaded_bytes;
    const RunPlan& plan = forecast.plan;
    log::info("memory plan\n{}", forecast.text());
    if (plan.placement.weights.slots + plan.placement.host.slots == 0 && config_.memory.slots > 0)
      log::warn("all weights are at hand: memory.slots has no effect");
    log::info("{} trained parameters on {}, compute {}", forecast.parameters, plan.numeric.backend,
              name(plan.numeric.compute));
    const RunInputs& inputs = planned_.inputs();
    trainer_ = std::make_unique<Trainer>(config_, inputs.folder, planned_.take_backend(), plan,
                                         planned_.start());
    if (lock_ || !saved_.empty())  // rows shown without a checkpoint are compared with nothing
      identity_ = run_identity(config_, inputs.folder, inputs.text_fingerprint, plan.numeric);
    inputs.data_files.check_unchanged();  // what was hashed is what was read
    if (saved_.empty()) {
      trainer_->initialise_adapter(planned_.start());
      if (lock_) checksum_ = std::make_unique<WeightsChecksum>(inputs.folder);
    } else {
      resume();
    }
    planned_.forget_start();
    return forecast;
  }

  void resume() {
    identity_.weights_crc32c =
        weights_checksum(planned_.inputs().folder, [] { StopSignals::check(); });
    state_ = load_checkpoint(saved_, *trainer_, identity_, options_.accepted);
    // Of other data the place may be beyond the end.
    if (state_.cursor.position >= std::ssize(train_.rows))
      state_.cursor = {state_.cursor.epoch + 1, 0};
  }

  // The run folder: fresh, or continued from a checkpoint.
  void open_output(const Forecast& forecast) {
    check_names(output_, state_.step, schedule_.total_steps);
    check_free_space(output_, checkpoint_bytes(*trainer_));
    remove_leftovers(output_);
    if (saved_.empty()) {
      state_.run_id = make_run_id();
    } else {
      if (!enter_run(output_, state_.run_id, state_.step, best_step()))
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
      if (m.result.update == StepResult::Update::Refused) refuse(m.result, rows);
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
      m.vram_bytes = trainer_->device().used_bytes() - loaded_bytes_;
      metrics.step(m, state_.step % config_.log.every_steps == 0 || state_.step == total);
      after_step(metrics);
    }
    if (saved_.empty()) save({}, metrics, true);  // a run of no steps
  }

  // Loss and gradient of some rows, each a micro-batch of its own: their part of a mean over
  // `trained_tokens`, of all their own where it is 0.
  StepResult probe(std::span<const int64_t> rows, int64_t trained_tokens = 0) {
    StepBatch batch = make_step_batch(train_, rows, 1, config_.data.packing);
    if (trained_tokens > 0) batch.trained_tokens = trained_tokens;
    return trainer_->probe(batch, state_.step);
  }

  // Ends the run for a step that is not applied, naming the rows: the one that does it alone, found
  // by halves, or all of them where it takes several. By what is not finite in the step: in f16 a
  // row's gradient may overflow beside the row whose loss did.
  [[noreturn]] void refuse(const StepResult& result, const std::vector<int64_t>& rows) {
    const auto is_bad = [&](std::span<const int64_t> part) {
      const StepResult r = probe(part, result.trained_tokens);
      return !std::isfinite(std::isfinite(result.loss) ? r.grad_norm : r.loss);
    };
    std::span<const int64_t> left = rows;
    while (left.size() > 1) {
      const auto half = left.first(left.size() / 2), rest = left.subspan(half.size());
      if (is_bad(half))
        left = half;
      else if (is_bad(rest))
        left = rest;
      else
        break;
    }
    constexpr size_t kShown = 8;
    std::vector<std::string> places, numbers;
    for (const int64_t row : left.first(std::min(left.size(), kShown))) {
      places.push_back(train_.place(train_.rows[static_cast<size_t>(row)]));
      numbers.push_back(std::to_string(row));
    }
    const int64_t micro_rows =
        config_.data.packing ? std::max<int64_t>(1, trainer_->plan().bounds.micro_rows) : 1;
    const auto micro_of = [&](const int64_t* row) { return (row - rows.data()) / micro_rows + 1; };
    const int64_t first = micro_of(left.data()), last = micro_of(left.data() + left.size() - 1);
    fail(ErrorCode::Numeric,
         "step {}: {}; in micro-batch {}{}, {} {}{}; nothing was updated; to look at them alone: "
         "lema train with this config{} --rows {}",
         state_.step + 1, result.reason, first, first == last ? "" : fmt::format(" to {}", last),
         left.size() == 1 ? "row" : "rows", fmt::join(places, ", "),
         left.size() > kShown ? fmt::format(" and {} more", left.size() - kShown) : "",
         saved_.empty() ? "" : ", --resume", fmt::join(numbers, ","));
  }

  // The evaluation that a stop has cut short, as if it had not.
  void catch_up(Metrics& metrics) {
    const std::optional<double> loss = evaluate(metrics);
    if (!loss) stop();
    state_.owes_evaluation = false;
    // One of another folder is none of this one's.
    const fs::path mine = checkpoint_folder(output_, state_.step);
    if (!is_there(mine)) return;
    const bool improved = is_best(loss);
    if (state_.step == schedule_.total_steps) save_anew(metrics);
    if (improved) mark_best(output_, mine);
  }

  // The last step once more, that it says what it owed; no later one will.
  void save_anew(Metrics& metrics) {
    metrics.sync();
    try {
      saved_ = save_checkpoint(output_, *trainer_, state_, identity_, config_.model,
                               planned_.inputs().chat_template, true);
      log::info("saved {}", saved_.string());
    } catch (const Error& error) {
      if (error.code() != ErrorCode::Usage) throw;
      log::warn("{}; the loss just evaluated is in metrics.jsonl alone", error.what());
    }
  }

  void after_step(Metrics& metrics) {
    if (checksum_) checksum_->check();
    const auto is_due = [&](int64_t every) { return every > 0 && state_.step % every == 0; };
    const bool last = state_.step == schedule_.total_steps;
    const bool due = last || is_due(config_.checkpoint.every_steps);
    std::optional<double> loss;
    const bool evaluates = eval_ && (due || is_due(config_.eval.every_steps));
    if (evaluates) loss = evaluate(metrics);
    state_.owes_evaluation = evaluates && !loss;
    const bool stops = state_.owes_evaluation || stop_requested();
    const bool wanted = StopSignals::take_save_request();
    if (!due && !stops && !wanted) return;
    if (!save(loss, metrics, last || stops)) return;
    if (state_.owes_evaluation || (!last && stop_requested())) stop();
  }

  // Of a step that is saved.
  [[noreturn]] void stop() {
    try {
      remove_file(output_ / kStopFile);
    } catch (const Error& error) {  // a folder for example
      log::warn("{}", error.what());
    }
    fail(ErrorCode::Interrupted, "stopped at step {}; continue with --resume", state_.step);
  }

  bool stop_requested() const {
    std::error_code error;
    return StopSignals::requested() || fs::exists(output_ / kStopFile, error);
  }

  std::optional<int64_t> best_step() const {
    return state_.best_eval_loss ? std::optional(state_.best_step) : std::nullopt;
  }

  // Whether this step's loss over the evaluation set is the best so far; it is from here on.
  bool is_best(std::optional<double> loss) {
    if (!loss || !config_.checkpoint.best.value_or(true)) return false;
    if (state_.best_eval_loss && *loss >= *state_.best_eval_loss) return false;
    state_.best_eval_loss = loss;
    state_.best_step = state_.step;
    return true;
  }

  // `loss`: this step's over the evaluation set, where there is one. Without `must` a failure to
  // write it is a warning, and false.
  bool save(std::optional<double> loss, Metrics& metrics, bool must) {
    const auto before = std::pair(state_.best_eval_loss, state_.best_step);
    const bool improved = is_best(loss);
    try {
      or_out_of_memory("saving", [&] {
        metrics.sync();
        if (checksum_) identity_.weights_crc32c = checksum_->get();
      });
    } catch (const Error& error) {
      throw not_saved(error);
    }
    try {
      or_out_of_memory("saving", [&] {
        saved_ = save_checkpoint(output_, *trainer_, state_, identity_, config_.model,
                                 planned_.inputs().chat_template);
      });
    } catch (const Error& error) {
      // What has its name already, in a folder that may not be synced twice, is not abandoned.
      std::error_code unknown;
      const bool has_name = fs::exists(checkpoint_folder(output_, state_.step), unknown) || unknown;
      if (must || has_name || error.code() != ErrorCode::Io || stop_requested())
        throw not_saved(error);
      std::tie(state_.best_eval_loss, state_.best_step) = before;
      log::warn("{}; the run goes on and saves step {}", not_saved(error).what(), next_save());
      return false;
    }
    log::info("saved {}", saved_.string());
    if (improved) mark_best(output_, saved_);
    prune_checkpoints(output_, saved_, config_.checkpoint.keep, best_step());
    return true;
  }

  Error not_saved(const Error& error) const {
    return {error.code(), fmt::format("step {} is not saved: {}", state_.step, error.what())};
  }

  int64_t next_save() const {
    const int64_t every = config_.checkpoint.every_steps;
    if (every == 0) return schedule_.total_steps;
    return std::min(schedule_.total_steps, (state_.step / every + 1) * every);
  }

  std::string standing() const {
    return saved_.empty() ? "nothing was saved before" : saved_.string() + " stands";
  }

  // Mean loss over the evaluation set; nullopt when the run is to stop.
  std::optional<double> evaluate(Metrics& metrics) {
    double sum = 0;
    int64_t targets = 0;
    Batcher order(static_cast<int64_t>(eval_->rows.size()), config_.train.batch_size, 0, false);
    BatchCursor cursor;
    for (int64_t step = 0; step < order.steps_per_epoch(); ++step) {
      if (stop_requested()) return std::nullopt;
      const StepBatch batch = make_step_batch(
          *eval_, order.next(cursor), trainer_->plan().bounds.micro_rows, config_.data.packing);
      sum += trainer_->evaluate(batch);
      targets += batch.trained_tokens;
    }
    const double loss = sum / static_cast<double>(targets);
    if (!std::isfinite(loss))
      fail(ErrorCode::Numeric,
           "step {}: the evaluation loss is {} over {}", state_.step, loss, eval_->path);
    metrics.evaluation(state_.step, loss, targets);
    return loss;
  }

  const StopSignals signals_;
  const RunOptions& options_;
  fs::path output_;
  const std::unique_ptr<FolderLock> lock_;  // null where nothing is written
  fs::path saved_;  // the last checkpoint
  PlannedRun planned_;
  const RunConfig& config_;  // with the settings of the adapter that it starts from
  const Dataset& train_;
  const std::optional<Dataset>& eval_;
  Batcher batcher_;
  LrSchedule schedule_;
  std::unique_ptr<Trainer> trainer_;
  int64_t loaded_bytes_ = 0;  // on the GPU before the run's buffers
  RunIdentity identity_;
  std::unique_ptr<WeightsChecksum> checksum_;  // of a fresh run that saves
  TrainState state_;
  std::optional<double> last_loss_;
};

}  // namespace

RunSummary run_training(const RunConfig& config, const RunOptions& options) {
  const auto run = or_out_of_memory("reading the model and its data", [&] {
    return std::make_unique<Run>(config, options, Run::Purpose::Train);
  });
  return run->run();
}

std::vector<RowReplay> replay_rows(const RunConfig& config, const RunOptions& options,
                                   const std::vector<int64_t>& rows) {
  return Run(config, options, Run::Purpose::Replay).replay(rows);
}

}  // namespace lema
