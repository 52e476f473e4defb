// Trainer: everything a training run holds on its device, and the step. A newcomer reads train_step
// first.
#pragma once

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "stream/layer_stream.h"
#include "stream/saved_store.h"
#include "train/loss_scale.h"
#include "train/numeric_guard.h"
#include "train/run_plan.h"
#include "train/step_inputs.h"

namespace lema {

struct StepResult {
  double loss = 0;       // mean over the step's trained tokens
  double grad_norm = 0;  // before clipping
  enum class Update { Applied, Skipped, Refused } update = Update::Applied;
  std::string reason;  // why it was not applied
  int64_t tokens = 0, trained_tokens = 0;
};

class Trainer {
 public:
  // Allocates what `plan`, of this config, folder, kind of backend and start, says. Backend and
  // reader of weights come from outside so that tests and traces can pass others; `start`: the
  // adapter of lora.init_from (open_init_adapter), null for a fresh one. All references outlive the
  // trainer.
  Trainer(const RunConfig& config, const ModelFolder& folder, Backend backend, RunPlan plan,
          const Adapter* start = nullptr, const MakeReader& make_reader = make_disk_reader);

  // The adapter's first values: those of `start`, else from the seed and the base. Before the first
  // step, unless a checkpoint is loaded.
  void initialise_adapter(const Adapter* start = nullptr);

  // One optimizer update at this rate, unless the guard or the loss scale has it left out: then
  // nothing changes. `step` is the 0-based index of the update. Numeric error, before anything
  // changes, when trained values or moments are not finite. The host waits for the device once.
  StepResult train_step(const StepBatch& batch, double lr, int64_t step);

  // Loss and gradient of a batch, and no update.
  StepResult probe(const StepBatch& batch, int64_t step);
  // Numeric error when a trained value or a moment is not finite, or too large for the sum of their
  // squares to be.
  void check_finite(int64_t step);

  // Sum of the losses of the batch's targets, without dropout or gradient; per target (in row
  // order) in `losses` when it is not null.
  double evaluate(const StepBatch& batch, std::vector<float>* losses = nullptr);

  const RunPlan& plan() const { return plan_; }
  const LayerStream& stream() const { return *stream_; }
  AdapterParameters& adapter() { return model_.adapter; }
  // First and second moments, (parameter_count) f32.
  TensorView moment1() const;
  TensorView moment2() const;
  Device& device() { return *device_; }
  LossScale& loss_scale() { return loss_scale_; }
  NumericGuard& guard() { return guard_; }
  int64_t h2d_bytes() const { return stream_->h2d_bytes() + saved_->h2d_bytes(); }
  int64_t d2h_bytes() const { return saved_->d2h_bytes(); }
  int64_t disk_bytes() const {
    return store_->read_bytes() + (embedding_rows_ ? embedding_rows_->read_bytes() : 0);
  }
  double stall_ms() const {  // that compute has waited for weights, from disk or over the bus
    return stall_ms_ + (embedding_rows_ ? embedding_rows_->read_ms() : 0);
  }
  int64_t kernel_scratch_bytes() const { return ops_->scratch_bytes(); }

 private:
  void allocate();
  void take_base(const PlacedField& base, Field field, int64_t first_row);

  void forward(bool keep);
  void head(bool gradient, float grad_scale);
  void backward();
  void measure_state();
  void require_finite_state(int64_t step) const;
  void judge(StepResult& result);
  void update(double lr, int64_t step);
  void read_back(int64_t losses);
  double sum_of_losses() const;

  Trace::Span compute_span(const char* pass, int64_t unit) {
    return {trace_.get(), Queue::Compute, fmt::format("{} {}", pass, unit)};
  }
  std::vector<int64_t> visits(bool training) const;
  KeptActivations kept(int64_t block, const TokenBatch& micro) const;
  // A whole step's activations at `data`, and a micro-batch's rows of them.
  MatrixView boundary(std::byte* data) const {
    return {data, plan_.numeric.compute, inputs_->tokens(), config_.C};
  }
  MatrixView rows_of(MatrixView x, const TokenBatch& micro) const {
    return x.row_range(micro.first_row, micro.first_row + micro.tokens);
  }
  int64_t boundary_bytes() const {
    return inputs_->tokens() * config_.C * element_bytes(plan_.numeric.compute);
  }
  // What the host reads of a step: the squared norms of these, then the loss of every target.
  enum Reading : size_t { Gradients, Values, Moments };
  TensorView squared(Reading what) const { return {readings_.data() + 4 * what, DType::F32, {1}}; }
  double norm(Reading what) const { return std::sqrt(static_cast<double>(read_[what])); }
  TensorView losses() const {
    return {readings_.data() + 4 * kNormSlots, DType::F32, {inputs_->targets().shape[0]}};
  }

  const RunConfig& run_;
  const ModelConfig& config_;
  std::unique_ptr<Device> device_;
  RunModel model_;
  RunPlan plan_;
  LossScale loss_scale_{false};
  NumericGuard guard_;
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Trace> trace_;  // null without log.trace
  std::unique_ptr<HostStore> store_;
  std::unique_ptr<EmbeddingRows> embedding_rows_;  // null where the table is at hand, or trained
  std::unique_ptr<ComputeStalls> stalls_;
  std::unique_ptr<LayerStream> stream_;
  std::unique_ptr<SavedStore> saved_;
  std::unique_ptr<Transformer> transformer_;
  std::unique_ptr<HeadLoss> head_;
  std::unique_ptr<StepInputs> inputs_;
  Buffer dx_, kept_, moments_, readings_;
  std::vector<float> read_;  // of readings_
  double stall_ms_ = 0;
  MatrixView output_;  // of the last block
};

}  // namespace lema
