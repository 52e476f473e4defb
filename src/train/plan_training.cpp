// Ties inputs, plan, rates and fit together. Called by the training loop and by the commands that
// foretell it.
#include "train/plan_training.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/checked.h"
#include "core/log.h"
#include "core/memory.h"
#include "core/units.h"
#include "train/init_adapter.h"
#include "train/warm_up.h"

namespace lema {
namespace {

// What a config takes of memory; where it cannot be placed at all, the least. `available` as of
// make_run_plan.
Amount memory_amount(FitGoal::Kind kind, const RunModel& model, const Device& device,
                     const OpsFactory& ops, int64_t available = 0) {
  return [=, &model, &device, &ops](const RunConfig& config, const DataFacts& data) {
    const bool is_vram = kind == FitGoal::Kind::Vram;
    try {
      const RunPlan plan = make_run_plan(config, model, device, ops, data, available);
      return Need{static_cast<double>(is_vram ? plan.placement.bytes(Tier::Device)
                                              : plan.anonymous_bytes())};
    } catch (const Error& error) {
      if (error.code() != ErrorCode::DoesNotFit) throw;
      const int64_t least =
          is_vram ? least_device_bytes(config, model, device, ops, data)
                  : least_host_bytes(config, model, device, ops, data, available);
      return Need{static_cast<double>(least), false};
    }
  };
}

// Bytes that the process may take, with what it has.
int64_t memory_for_run() {
  return checked_add(available_memory(), resident_memory().anonymous).value_or(INT64_MAX);
}

// What the run leaves to the page cache.
int64_t page_cache_beside(const RunPlan& plan) {
  return memory_for_run() - plan.anonymous_bytes();
}

// Not on a GPU, which needs its weights page-locked.
bool is_mapped(const RunConfig& config, const Device& device) {
  return config.memory.disk == "mmap" && !device.needs_pinned_weights();
}

// How the weights of a plan come from disk; `auto` measures.
DiskMode disk_mode(const RunConfig& config, const RunPlan& plan, const RunModel& model,
                   const Device& device) {
  if (!plan.reads_into_memory || is_mapped(config, device)) return DiskMode::Mmap;
  if (config.memory.disk == "direct") return DiskMode::Direct;
  if (config.memory.disk == "buffered") return DiskMode::Buffered;
  return faster_disk_mode(model.folder,
                          plan.placement.host.holds_all ? INT64_MAX : page_cache_beside(plan));
}

// The end of a plan: how weights come from disk, where they do.
void choose_reads(RunPlan& plan, const RunConfig& config, const RunModel& model,
                  const Device& device) {
  plan.placement.host.disk = disk_mode(config, plan, model, device);
  plan.reads_page_cache = plan.placement.host.disk == DiskMode::Buffered &&
                          fits_page_cache(model.folder, page_cache_beside(plan));
}

// The end of a refusal: what would fit.
std::string nearest(const RunConfig& config, const DataFacts& data, const FitGoal& goal,
                    const Amount& amount) {
  const FitResult found = fit(config, data, goal, amount);
  if (found.fits) return fmt::format("; fits with {}", to_string(found.changes));
  if (found.amount <= goal.limit) return "";  // it is another budget that cannot be kept
  return fmt::format("; no smaller batch fits: the least is {}{}{}", describe(goal, found.amount),
                     found.changes.empty() ? "" : ", with ", to_string(found.changes));
}

// What of a refusal is said.
enum class Advice { None, NearestFit };

// plan_or_refuse, but for choose_reads. Weights that memory cannot hold are read from disk in every
// step, the run `within` what is available, which is 0 at first.
RunPlan plan_here(const RunConfig& config, const RunModel& model, const Device& device,
                  const OpsFactory& ops, const DataFacts& data, Advice advice,
                  int64_t within = 0) {
  const auto refuse = [&](const std::string& what, FitGoal::Kind kind, int64_t limit) {
    const FitGoal goal{kind, static_cast<double>(limit)};
    fail(ErrorCode::DoesNotFit, "{}{}", what,
         advice == Advice::None
             ? ""
             : nearest(config, data, goal, memory_amount(kind, model, device, ops, within)));
  };
  RunPlan plan;
  try {
    plan = make_run_plan(config, model, device, ops, data, within);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::DoesNotFit) throw;
    const int64_t vram = device_budget(config, device);
    if (vram > 0 && least_device_bytes(config, model, device, ops, data) > vram)
      refuse(error.what(), FitGoal::Kind::Vram, vram);
    refuse(error.what(), FitGoal::Kind::Ram, std::max(config.memory.ram_bytes, within));
  }
  const int64_t available = memory_for_run();
  // Locked pages are never swapped out: without a reserve for others the system stalls.
  const int64_t most = device.needs_pinned_weights() ? less_reserve(available) : available;
  if (plan.ram_budget == 0 && !is_mapped(config, device) && plan.memory_bytes() > most)
    return plan_here(config, model, device, ops, data, advice, less_reserve(available));
  if (plan.anonymous_bytes() > available)
    refuse(fmt::format("the run needs {} of memory and {} are available",
                       format_bytes(plan.anonymous_bytes()), format_bytes(available)),
           FitGoal::Kind::Ram, available);
  return plan;
}

}  // namespace

RunPlan plan_or_refuse(const RunConfig& config, const RunModel& model, const Device& device,
                       const OpsFactory& ops, const DataFacts& data) {
  RunPlan plan = plan_here(config, model, device, ops, data, Advice::NearestFit);
  if (plan.ram_budget > 0 && config.memory.ram_bytes == 0)
    log::info("planned within {} of memory: weights that it cannot hold are read from disk",
              format_bytes(plan.ram_budget));
  choose_reads(plan, config, model, device);
  return plan;
}

std::string Forecast::text() const {
  const std::string table = plan.table();
  if (!time) return table + "  step    not predicted: measure this machine with lema plan\n";
  std::string disk;
  if (time->disk > 0)
    disk = fmt::format(", {:.0f} ms of it reading weights", 1000 * time->disk);
  return table + fmt::format("  step    {:>8.0f} ms  predicted{}; {} for {} steps\n",
                             1000 * time->seconds, disk,
                             format_duration(time->seconds * static_cast<double>(steps)), steps);
}

Value Forecast::to_value() const {
  Value value = plan.to_value();
  value.set("parameters", parameters);
  value.set("steps", steps);
  value.set("step_ms", time ? Value(1000 * time->seconds) : Value());
  value.set("stall_ms", time ? Value(1000 * time->stall) : Value());
  value.set("disk_ms", time ? Value(1000 * time->disk) : Value());
  return value;
}

PlannedRun::PlannedRun(const RunConfig& config, const fs::path& checkpoint, bool any_order)
    : config_(config),
      inputs_(config, checkpoint),
      start_(checkpoint.empty() ? open_init_adapter(config_, inputs_.folder)
                                : open_resumed_adapter(config_, inputs_.folder, checkpoint)),
      data_(data_facts(inputs_.data.train, inputs_.data.eval ? &*inputs_.data.eval : nullptr)),
      model_(inputs_.folder, config_, start()),
      backend_(open_backend(config.device)) {
  data_.any_order = any_order;
}

Forecast PlannedRun::forecast(double budget) {
  Forecast f;
  f.loaded_bytes = load_kernels();
  f.plan = plan();
  const StepTrace trace = trace_of(config_, f.plan, data_);
  f.parameters = model_.adapter.parameter_count();
  const Batcher batches(std::ssize(data_.train), config_.train.batch_size, 0, false);
  f.steps = batches.total_steps(config_.train.epochs, config_.train.max_steps);
  MachineRates known = rates();
  f.time = time_of(f.plan, trace, known, budget);
  known.save();
  return f;
}

StepTrace PlannedRun::trace() const { return trace_of(config_, plan(), data_); }

RunPlan PlannedRun::plan() const {
  return plan_or_refuse(config_, model_, *backend_.device, backend_.ops, data_);
}

FitResult PlannedRun::fit(const FitGoal& goal, double budget) {
  try {
    load_kernels();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::DoesNotFit) throw;  // it is why others are looked for
  }
  const RunConfig start = as_planned();
  if (goal.kind != FitGoal::Kind::StepMs)
    return lema::fit(start, data_, goal,
                     memory_amount(goal.kind, model_, *backend_.device, backend_.ops));
  RunConfig reads = config_;  // by the mode that was measured
  MachineRates known = rates();
  const Amount milliseconds = [&](const RunConfig& config, const DataFacts& data) {
    const Need cannot_run{std::numeric_limits<double>::infinity(), false};
    RunPlan plan;
    try {
      plan = plan_here(config, model_, *backend_.device, backend_.ops, data, Advice::None);
      choose_reads(plan, reads, model_, *backend_.device);
      if (plan.reads_into_memory) reads.memory.disk = name(plan.placement.host.disk);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::DoesNotFit) throw;
      return cannot_run;
    }
    const std::optional<StepTime> time =
        time_of(plan, trace_of(config, plan, data), known, budget);
    return time ? Need{1000 * time->seconds} : cannot_run;
  };
  FitResult found = lema::fit(start, data_, goal, milliseconds);
  known.save();
  if (!std::isfinite(found.amount))  // nothing that was tried can run: why the config cannot
    plan();
  return found;
}

RunConfig PlannedRun::as_planned() const {
  RunConfig same = config_;
  same.memory.vram_bytes = device_budget(config_, *backend_.device);
  try {
    same.memory.ram_bytes =
        plan_here(config_, model_, *backend_.device, backend_.ops, data_, Advice::None).ram_budget;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::DoesNotFit) throw;
  }
  return same;
}

int64_t PlannedRun::load_kernels() const {
  if (backend_.device->used_bytes() == 0) return 0;
  const RunPlan plan =
      plan_here(config_, model_, *backend_.device, backend_.ops, data_, Advice::NearestFit);
  warm_up(backend_, static_cast<int>(config_.threads), plan.ops,
          trace_of(config_, plan, data_).run_calls);
  const int64_t bytes = backend_.device->used_bytes();
  log::info("{} are in use on the GPU with all kernels loaded, before the run's buffers",
            format_bytes(bytes));
  return bytes;
}

StepTrace PlannedRun::trace_of(const RunConfig& config, const RunPlan& plan,
                               const DataFacts& data) const {
  return trace_step(config, inputs_.folder, plan, *backend_.device, backend_.ops, start(),
                    !data.eval.empty());
}

std::optional<StepTime> PlannedRun::time_of(const RunPlan& plan, const StepTrace& trace,
                                            MachineRates& rates, double budget) const {
  std::optional<double> read_rate = 1;
  if (trace.reads_from_disk())
    read_rate = rates.read_rate(model_.folder, plan.placement.host.disk, plan.reads_page_cache,
                                budget);
  if (!read_rate) return std::nullopt;
  return predict_step(trace, rates, budget, backend_.device->reads_host_memory(), *read_rate);
}

}  // namespace lema
