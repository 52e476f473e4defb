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

// Read at a time of the log of a run that is resumed; more than its longest line.
constexpr int64_t kPieceBytes = 1 << 16;

Value finite_or_null(double x) { return std::isfinite(x) ? Value(x) : Value(); }

// What is left of the log of a run that goes on after a step.
struct Kept {
  int64_t last_step;
  bool last_evaluation;
  bool has(const std::string& line) const {
    const Value value = parse_json(line, "metrics");
    const Value* step = value.find("step");
    if (!step) fail(ErrorCode::BadInput, "no step");
    return step->as_int() < last_step + (last_evaluation || !value.find("eval_loss"));
  }
};

// Those of the whole lines of `piece` that are kept; `sound` becomes the bytes of all that could be
// read.
std::string kept_lines(const Kept& of, const std::string& piece, size_t& sound) {
  std::string kept;
  for (sound = 0;;) {
    const size_t end = piece.find('\n', sound);
    if (end == std::string::npos) return kept;
    const std::string line = piece.substr(sound, end - sound);
    try {
      if (of.has(line)) kept += line + "\n";
    } catch (const Error&) {  // unsynced bytes of a power cut
      return kept;
    }
    sound = end + 1;
  }
}

// A log grows with its run, and may be larger than what a run may hold.
void keep_lines(const Kept& of, const fs::path& path) {
  const File log = File::open(path);
  StagedFile staged(path);
  File file = File::create(staged.path());
  std::string piece(kPieceBytes, '\0');
  size_t sound = 0;
  for (int64_t at = 0;; at += static_cast<int64_t>(sound)) {
    piece.resize(static_cast<size_t>(log.read_up_to(piece.data(), kPieceBytes, at)));
    const std::string kept = kept_lines(of, piece, sound);
    if (sound == 0) break;
    file.write(kept.data(), static_cast<int64_t>(kept.size()));
    piece.resize(kPieceBytes);
  }
  file.sync();
  file.close();
  staged.commit();
}

}  // namespace

Metrics::Metrics(const fs::path& output_dir, int64_t resumed_step, bool evaluates_again)
    : path_(output_dir / "metrics.jsonl") {
  if (is_there(path_)) keep_lines({resumed_step, !evaluates_again}, path_);
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
