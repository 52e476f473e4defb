// The training step: forward block by block, loss in chunks, backward block by block, one update.
#include "train/trainer.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace lema {
namespace {

// Of a base matrix that is read to start from.
constexpr int64_t kBaseChunkBytes = int64_t{4} << 20;

TensorView part_of(const TensorView& all, const ParameterRun& run) {
  return {static_cast<std::byte*>(all.data) + run.offset * 4, DType::F32, {run.count}};
}

}  // namespace

Trainer::Trainer(const RunConfig& config, const ModelFolder& folder, Backend backend, RunPlan plan,
                 const Adapter* start, const MakeReader& make_reader)
    : run_(config),
      config_(folder.config()),
      device_(std::move(backend.device)),
      model_(folder, config, start),
      plan_(std::move(plan)),
      guard_(config.guard) {
  check(plan_.numeric.backend == device_->name(), "a plan for {}, carried out on {}",
        plan_.numeric.backend, device_->name());
  loss_scale_ = LossScale(plan_.numeric.compute == DType::F16);
  device_->commit_allocations();
  device_->set_limits(plan_.placement.bytes(Tier::Device), plan_.placement.bytes(Tier::Pinned));
  ops_ = backend.ops.make(*device_, static_cast<int>(run_.threads), plan_.ops);
  if (!run_.log.trace.empty()) trace_ = std::make_unique<Trace>(*device_, run_.log.trace);
  store_ = std::make_unique<HostStore>(folder, model_.table, *device_, plan_.placement.host,
                                       trace_.get(), make_reader);
  if (!store_->has_embedding() && !model_.adapter.is_full(Field::Embed))
    embedding_rows_ = std::make_unique<EmbeddingRows>(folder, model_.table.embed, *device_,
                                                      plan_.bounds.tokens);
  allocate();
}

// Full matrices begin as the base's. Magnitudes begin as the lengths of the weights' rows, which
// takes a visit of every block.
void Trainer::initialise_adapter(const Adapter* start) {
  if (start) return model_.adapter.load(*start);
  model_.adapter.initialise(static_cast<uint64_t>(run_.seed));
  if (model_.adapter.is_full(Field::Embed)) take_base(model_.table.embed, Field::Embed, 0);
  for (size_t chunk = 0; chunk < model_.base_head.size(); ++chunk)
    take_base(model_.base_head[chunk].pieces[0].fields[0], Field::Head,
              static_cast<int64_t>(chunk) * model_.table.head_chunk_rows);
  if (!run_.lora.dora) return;
  stream_->begin_pass(forward_visits(config_.L, 0));
  for (int64_t block = 0; block < config_.L; ++block) {
    const Lease w = stream_->acquire(block);
    model_.adapter.update_norms(*ops_, w.weights(), block);
    model_.adapter.take_magnitudes(block);
  }
  device_->synchronize(Queue::Compute);
  stalls_->take_ms();  // of no step
}

// Reads the rows of a base matrix from its file into those of the adapter's from `first_row` on, a
// chunk at a time: the host store need not hold it.
void Trainer::take_base(const PlacedField& base, Field field, int64_t first_row) {
  const int64_t rows = base.shape[0], row_bytes = base.bytes / rows;
  const int64_t step = std::max<int64_t>(1, kBaseChunkBytes / row_bytes);
  std::vector<std::byte> chunk(static_cast<size_t>(std::min(rows, step) * row_bytes));
  for (int64_t row = 0; row < rows; row += step) {
    const int64_t count = std::min(step, rows - row);
    model_.folder.files()[base.file].file().read_at(chunk.data(), count * row_bytes,
                                                    base.file_offset + row * row_bytes);
    model_.adapter.take_base(field, {chunk.data(), base.dtype, {count, base.shape[1]}},
                             first_row + row);
  }
}

void Trainer::allocate() {
  const StepBounds& bounds = plan_.bounds;
  const Plan& placement = plan_.placement;
  const DType X = plan_.numeric.compute;
  const int64_t boundary = bounds.tokens * config_.C * element_bytes(X),
                parameters = model_.adapter.parameter_count();
  model_.adapter.allocate(*device_, true);
  moments_ = device_->allocate(2 * parameters * 4, "optimizer moments");
  ops_->fill({moments_.data(), DType::F32, {2 * parameters}}, 0);
  stalls_ = std::make_unique<ComputeStalls>(*device_, 4 * model_.table.unit_count());
  stream_ = std::make_unique<LayerStream>(*device_, model_.table, *store_, placement.weights,
                                          trace_.get(), stalls_.get());
  saved_ = std::make_unique<SavedStore>(*device_, config_.L + 1, boundary,
                                        placement.offload_boundaries, trace_.get());
  transformer_ =
      std::make_unique<Transformer>(*device_, *ops_, config_, model_.table.spec.linear_transposed,
                                    X, plan_.blocks, &model_.adapter);
  head_ = std::make_unique<HeadLoss>(*device_, *ops_, *transformer_, plan_.head);
  inputs_ = std::make_unique<StepInputs>(*device_, bounds.tokens, bounds.rows);
  dx_ = device_->allocate(boundary, "gradient of the block output");
  readings_ = device_->allocate((kNormSlots + bounds.target_rows) * 4, "norms and losses");
  // All of it is read back in each step, also norms that the run has no use for.
  ops_->fill({readings_.data(), DType::F32, {readings_.bytes() / 4}}, 0);
  if (placement.kept_blocks > 0)
    kept_ = device_->allocate(placement.kept_blocks * kept_block_bytes(config_, X, bounds.tokens),
                              "kept activations");
}

StepResult Trainer::train_step(const StepBatch& batch, double lr, int64_t step) {
  measure_state();
  StepResult result = probe(batch, step);
  store_->check_files();  // a gradient of weights that have changed is not applied
  require_finite_state(step);
  judge(result);
  if (result.update == StepResult::Update::Applied) update(lr, step);
  if (trace_) trace_->flush();
  return result;
}

StepResult Trainer::probe(const StepBatch& batch, int64_t step) {
  if (trace_) trace_->begin_step(step + 1);
  const float scale = loss_scale_.scale(),
              grad_scale = scale / static_cast<float>(batch.trained_tokens);
  inputs_->upload(batch, transformer_->rope_table(), embedding_rows_.get());
  model_.adapter.set_step(static_cast<uint64_t>(run_.seed), step, true);
  ops_->fill(model_.adapter.gradients(), 0);
  stream_->begin_pass(visits(true));

  forward(true);
  head(true, grad_scale);
  backward();
  ops_->squared_norm(squared(Gradients), model_.adapter.gradients());
  read_back(inputs_->targets().shape[0]);
  StepResult result;
  result.loss = sum_of_losses() / static_cast<double>(batch.trained_tokens);
  result.grad_norm = norm(Gradients) / static_cast<double>(scale);
  result.tokens = batch.tokens;
  result.trained_tokens = batch.trained_tokens;
  return result;
}

// Blocks 0 .. L-1: every micro-batch passes a block before the next block is needed.
void Trainer::forward(bool keep) {
  MatrixView x = boundary(saved_->begin_write(0));
  const bool learned = config_.rope.kind == RopeConfig::Kind::None;
  const TensorView table = model_.adapter.is_full(Field::Embed) ? model_.adapter.full(Field::Embed)
                           : embedding_rows_                    ? embedding_rows_->table()
                                                                : stream_->table(Field::Embed);
  for (const TokenBatch& micro : inputs_->micro())
    transformer_->embed(rows_of(x, micro), micro, table,
                        learned ? stream_->table(Field::Positions) : TensorView());
  if (keep) saved_->finish_write(0, boundary_bytes());
  for (int64_t block = 0; block < config_.L; ++block) {
    const Lease w = stream_->acquire(block);
    const MatrixView x_next = boundary(saved_->begin_write(block + 1));
    const Trace::Span span = compute_span("forward", block);
    model_.adapter.update_norms(*ops_, w.weights(), block);
    for (const TokenBatch& micro : inputs_->micro())
      transformer_->block_forward(rows_of(x_next, micro), rows_of(x, micro), w.weights(), block,
                                  micro, keep ? kept(block, micro) : KeptActivations());
    if (keep) saved_->finish_write(block + 1, boundary_bytes());
    x = x_next;
  }
  output_ = x;
}

// Loss of the rows with a target; with `gradient`, dx_ = dLoss/d(output of the last block).
void Trainer::head(bool gradient, float grad_scale) {
  const MatrixView dx = gradient ? boundary(dx_.data()) : MatrixView();
  head_->run(
      losses(), dx, output_, inputs_->target_rows(), inputs_->targets(),
      stream_->resident(Field::NormFinal), stream_->resident(Field::NormFinalBias),
      [&](const HeadLoss::UseChunk& use) {
        if (model_.adapter.is_full(Field::Head))
          return for_each_chunk(model_.adapter.full(Field::Head), model_.table.head_chunk_rows,
                                use);
        for (int64_t i = 0; i < std::ssize(model_.table.head_chunks); ++i) {
          const Lease w = stream_->acquire(config_.L + i);
          const Trace::Span span = compute_span("head", i);
          use(w[Field::Head], i * model_.table.head_chunk_rows);
        }
      },
      grad_scale, model_.adapter.full_gradient(Field::Head));
}

// Blocks L-1 .. lowest trained; the gradient of a block's input takes the place of its output's.
void Trainer::backward() {
  const MatrixView dx = boundary(dx_.data());
  const int64_t lowest = model_.adapter.lowest_block(), last = std::max<int64_t>(0, lowest);
  for (int64_t block = config_.L - 1; block >= last; --block) {
    const Lease w = stream_->acquire(block);
    const MatrixView x = boundary(saved_->begin_read(block, last, boundary_bytes()));
    const Trace::Span span = compute_span("backward", block);
    for (const TokenBatch& micro : inputs_->micro())
      transformer_->block_backward(rows_of(dx, micro), rows_of(x, micro), w.weights(), block, micro,
                                   kept(block, micro), block > lowest);
  }
  for (const TokenBatch& micro : inputs_->micro())
    transformer_->embed_backward(rows_of(dx, micro), micro);
  if (model_.adapter.is_full(Field::Embed))
    for (const TokenBatch& micro : inputs_->micro())
      ops_->embedding_backward(model_.adapter.full_gradient(Field::Embed), micro.ids,
                               rows_of(dx, micro));
}

void Trainer::measure_state() {
  ops_->squared_norm(squared(Values), model_.adapter.values());
  ops_->squared_norm(squared(Moments), {moments_.data(), DType::F32,
                                        {2 * model_.adapter.parameter_count()}});
}

void Trainer::require_finite_state(int64_t step) const {
  for (const auto& [what, reading] : {std::pair("trained values", Values),
                                      {"moments of the optimizer", Moments}})
    if (!std::isfinite(norm(reading)))
      fail(ErrorCode::Numeric,
           "step {}: among the {} is one that is not finite, or their squares overflow f32",
           step + 1, what);
}

void Trainer::check_finite(int64_t step) {
  measure_state();
  read_back(0);
  require_finite_state(step);
}

void Trainer::judge(StepResult& result) {
  const bool overflowed = std::isfinite(result.loss) && !loss_scale_.accepts(result.grad_norm);
  if (overflowed) {
    result.update = StepResult::Update::Skipped;
    result.reason = "f16 gradients overflowed";
    return;
  }
  switch (guard_.judge(result.loss, result.grad_norm, result.reason)) {
    case NumericGuard::Verdict::Update: result.update = StepResult::Update::Applied; break;
    case NumericGuard::Verdict::Skip: result.update = StepResult::Update::Skipped; break;
    case NumericGuard::Verdict::Stop: result.update = StepResult::Update::Refused; break;
  }
  if (loss_scale_.is_on() && !std::isfinite(result.loss))
    result.reason += "; f16 ends at 65504: compute = \"f32\" has room";
}

// By the gradients whose norm was measured.
void Trainer::update(double lr, int64_t step) {
  const Trace::Span span(trace_.get(), Queue::Compute, "update");
  AdamWStep s;
  s.grad_scale = 1 / loss_scale_.scale();
  s.lr = static_cast<float>(lr);
  s.beta1 = static_cast<float>(run_.optimizer.beta1);
  s.beta2 = static_cast<float>(run_.optimizer.beta2);
  s.eps = static_cast<float>(run_.optimizer.eps);
  s.weight_decay = static_cast<float>(run_.optimizer.weight_decay);
  s.step = step + 1 - loss_scale_.skipped() - guard_.skipped();
  s.clip = static_cast<float>(run_.optimizer.clip);
  const double embedding_factor = run_.lora.plus_embedding_lr / run_.optimizer.lr;
  for (const ParameterRun& run : model_.adapter.runs(run_.lora.plus_ratio, embedding_factor)) {
    s.lr = static_cast<float>(lr * run.lr_factor);
    ops_->adamw(part_of(model_.adapter.values(), run), part_of(model_.adapter.gradients(), run),
                part_of(moment1(), run), part_of(moment2(), run), squared(Gradients), s);
  }
  model_.adapter.values_changed();
}

double Trainer::evaluate(const StepBatch& batch, std::vector<float>* losses) {
  if (trace_) trace_->begin_evaluation();
  inputs_->upload(batch, transformer_->rope_table(), embedding_rows_.get());
  model_.adapter.set_step(static_cast<uint64_t>(run_.seed), 0, false);
  stream_->begin_pass(visits(false));
  forward(false);
  head(false, 0);
  store_->check_files();
  read_back(inputs_->targets().shape[0]);
  if (losses) losses->assign(read_.begin() + kNormSlots, read_.end());
  if (trace_) trace_->flush();
  return sum_of_losses();
}

// The norms, and as many losses, in one copy.
void Trainer::read_back(int64_t losses) {
  read_.resize(static_cast<size_t>(kNormSlots + losses));
  device_->copy_async(Queue::Compute, read_.data(), readings_.data(), std::ssize(read_) * 4);
  device_->synchronize(Queue::Compute);
  stall_ms_ += stalls_->take_ms();
}

double Trainer::sum_of_losses() const {
  double sum = 0;
  for (auto loss = read_.begin() + kNormSlots; loss != read_.end(); ++loss)
    sum += static_cast<double>(*loss);
  return sum;
}

std::vector<int64_t> Trainer::visits(bool training) const {
  const auto chunks = static_cast<int64_t>(model_.table.head_chunks.size());
  std::vector<int64_t> order = forward_visits(config_.L, 0);
  const bool twice = training && model_.adapter.head_rank() > 0;
  for (int64_t group = 0; group < head_->visits(inputs_->targets().shape[0], twice); ++group)
    for (int64_t chunk = 0; chunk < chunks; ++chunk) order.push_back(config_.L + chunk);
  const int64_t lowest = std::max<int64_t>(0, model_.adapter.lowest_block());
  for (int64_t block = config_.L - 1; training && block >= lowest; --block) order.push_back(block);
  return order;
}

// The last kept_blocks blocks keep their activations; each tensor of a block spans the whole step.
KeptActivations Trainer::kept(int64_t block, const TokenBatch& micro) const {
  const int64_t index = block - (config_.L - plan_.placement.kept_blocks);
  if (index < 0) return {};
  const ModelConfig& c = config_;
  const DType X = plan_.numeric.compute;
  const int64_t bytes = kept_block_bytes(c, X, plan_.bounds.tokens);
  KeptActivations k = kept_block(c, X, plan_.bounds.tokens, kept_.data() + index * bytes);
  k.lse = k.lse.rows(micro.first_row, micro.first_row + micro.tokens);
  for (MatrixView* matrix : {&k.qkv, &k.qk, &k.o, &k.x_mid, &k.mlp_in})
    if (*matrix) *matrix = rows_of(*matrix, micro);
  return k;
}

TensorView Trainer::moment1() const {
  return {moments_.data(), DType::F32, {model_.adapter.parameter_count()}};
}
TensorView Trainer::moment2() const {
  return {moments_.data() + model_.adapter.parameter_count() * 4,
          DType::F32,
          {model_.adapter.parameter_count()}};
}

}  // namespace lema
