// Reporting of steps. Called by the training loop.
#include "train/metrics.h"

#include <cmath>

#include "core/error.h"
#include "core/folder.h"
#include "core/log.h"
#include "core/memory.h"
#include "core/units.h"
#include "formats/json.h"

namespace lema {
namespace {

// Read at a time of the log of a run that is resumed; more than any line that can be read.
constexpr int64_t kPieceBytes = 1 << 16;

Value finite_or_null(double x) { return std::isfinite(x) ? Value(x) : Value(); }

enum class Line { Kept, Later, Damaged };

// Tells the lines of a log whose run goes on after a step. Steps never fall in it: a line of an
// earlier one is as damaged as one that cannot be read.
class Sieve {
 public:
  Sieve(int64_t last_step, bool last_evaluation)
      : last_step_(last_step), last_evaluation_(last_evaluation) {}

  Line kind(std::string_view line) {
    if (!line.ends_with('\n')) return Line::Damaged;
    try {
      const Value value = parse_json(line, "metrics");
      const Value* found = value.find("step");
      const int64_t step = found ? found->as_int() : -1;
      if (step < step_) return Line::Damaged;
      if (step >= last_step_ + (last_evaluation_ || !value.find("eval_loss"))) return Line::Later;
      step_ = step;
      return Line::Kept;
    } catch (const Error&) {
      return Line::Damaged;
    }
  }

 private:
  int64_t last_step_, step_ = 0;
  bool last_evaluation_;
};

// Calls see(line, its end in the file) for every line with its newline. A log grows with its run,
// and may be larger than what a run may hold: what has no newline for a whole piece comes in parts.
void each_line(const File& log, auto&& see) {
  std::string piece;
  for (int64_t at = 0;;) {
    piece.resize(kPieceBytes);
    piece.resize(static_cast<size_t>(log.read_up_to(piece.data(), kPieceBytes, at)));
    if (piece.empty()) return;
    size_t begin = 0;
    for (size_t end; (end = piece.find('\n', begin) + 1) > 0 || begin == 0; begin = end) {
      if (end == 0) end = piece.size();
      see(std::string_view(piece).substr(begin, end - begin), at + static_cast<int64_t>(end));
    }
    at += static_cast<int64_t>(begin);
  }
}

// Drops lines of later steps, and all behind the last line that is kept: what a power cut leaves of
// bytes that were not synced. Damage before it is none of this run's.
void keep_lines(const Sieve& sieve, const fs::path& path) {
  const File log = File::open(path);
  int64_t last_end = 0, damaged = 0;
  each_line(log, [&, s = sieve](std::string_view line, int64_t end) mutable {
    if (s.kind(line) == Line::Kept) last_end = end;
  });
  StagedFile staged(path);
  File file = File::create(staged.path());
  each_line(log, [&, s = sieve](std::string_view line, int64_t end) mutable {
    const Line kind = s.kind(line);
    if (kind == Line::Later || end > last_end) return;
    damaged += kind == Line::Damaged;
    file.write(line.data(), std::ssize(line));
  });
  file.sync();
  file.close();
  staged.commit();
  if (damaged > 0) log::warn("{}: lines that cannot be read: {}; kept", path.string(), damaged);
}

}  // namespace

Metrics::Metrics(const fs::path& output_dir, int64_t resumed_step, bool evaluates_again)
    : path_(output_dir / "metrics.jsonl") {
  if (is_there(path_)) keep_lines(Sieve(resumed_step, !evaluates_again), path_);
  file_ = File::append(path_);
}

void Metrics::append(const std::string& line) {
  check(std::ssize(line) < kPieceBytes, "a line of {} bytes in metrics.jsonl", line.size());
  file_.write(line.data(), static_cast<int64_t>(line.size()));
}

void Metrics::step(const StepMetrics& m, bool show) {
  const double seconds = m.step_ms / 1000;
  const double rate = static_cast<double>(m.result.tokens) / seconds;
  step_seconds_ = step_seconds_ == 0 ? seconds : 0.9 * step_seconds_ + 0.1 * seconds;
  const ResidentMemory memory = resident_memory();
  Value value;
  value.set("step", m.step);
  value.set("epoch", m.epoch);
  value.set("loss", finite_or_null(m.result.loss));
  value.set("lr", m.lr);
  value.set("grad_norm", finite_or_null(m.result.grad_norm));
  if (m.loss_scale != 1) value.set("loss_scale", m.loss_scale);
  value.set("tokens", m.result.tokens);
  value.set("trained_tokens", m.result.trained_tokens);
  value.set("step_ms", m.step_ms);
  value.set("tokens_per_s", finite_or_null(rate));  // a coarse clock measures 0 ms
  value.set("ram_peak_bytes", memory.peak);
  if (m.vram_bytes > 0) value.set("vram_bytes", m.vram_bytes);
  value.set("h2d_bytes", m.h2d_bytes);
  value.set("d2h_bytes", m.d2h_bytes);
  value.set("disk_bytes", m.disk_bytes);
  value.set("stall_ms", m.stall_ms);
  append(dump_json(value) + "\n");
  if (m.result.update == StepResult::Update::Skipped)
    log::warn("step {}: {}{}: no update", m.step, m.result.reason,
              m.loss_scale == 1 ? "" : fmt::format(" at a loss scale of {}", m.loss_scale));
  if (!show) return;
  log::progress(fmt::format(
      "step {}/{}  loss {:.4f}  lr {:.2e}  grad {:.3f}  {:.0f} tok/s  memory {}  left {}", m.step,
      m.total_steps, m.result.loss, m.lr, m.result.grad_norm, rate, format_bytes(memory.total),
      format_duration(step_seconds_ * static_cast<double>(m.total_steps - m.step))));
}

void Metrics::evaluation(int64_t step, double eval_loss, int64_t targets) {
  Value value;
  value.set("step", step);
  value.set("eval_loss", eval_loss);
  value.set("eval_tokens", targets);
  append(dump_json(value) + "\n");
  log::info("step {}  eval loss {:.4f} over {} tokens", step, eval_loss, targets);
}

}  // namespace lema
