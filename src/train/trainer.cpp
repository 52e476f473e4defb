// The training step: forward block by block, loss in chunks, backward block by block, one update.
#include "train/trainer.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <utility>

#include "core/log.h"
#include "train/init_adapter.h"

namespace lema {
namespace {

// Tokens a micro-batch aims at when its size is left to us: weight-gradient products want at least
// these.
constexpr int64_t kAutoMicroTokens = 8192;

// Of a base matrix that is read to start from.
constexpr int64_t kBaseChunkBytes = int64_t{4} << 20;

// The sum of the n largest values.
int64_t largest(std::vector<int64_t> values, int64_t n) {
  std::sort(values.begin(), values.end(), std::greater<>());
  values.resize(std::min(values.size(), static_cast<size_t>(n)));
  return std::accumulate(values.begin(), values.end(), int64_t{0});
}

TensorView part_of(const TensorView& all, const ParameterRun& run) {
  return {static_cast<std::byte*>(all.data) + run.offset * 4, DType::F32, {run.count}};
}

}  // namespace

StepBounds step_bounds(const RunConfig& config, const Dataset* train, const Dataset* eval) {
  std::vector<int64_t> lengths, trained;
  for (const Dataset* data : {train, eval}) {
    if (!data) continue;
    for (const Row& row : data->rows) {
      lengths.push_back(static_cast<int64_t>(row.ids.size()));
      trained.push_back(std::accumulate(row.trained.begin(), row.trained.end(), int64_t{0}));
    }
  }
  StepBounds b;
  b.rows = std::min(config.train.batch_size, static_cast<int64_t>(lengths.size()));
  b.tokens = largest(lengths, b.rows);
  b.target_rows = largest(trained, b.rows);
  b.row_tokens = largest(lengths, 1);
  b.micro_rows = config.train.micro_batch_size;
  if (b.micro_rows == 0) {
    b.micro_rows = b.rows;
    while (b.micro_rows > 1 && largest(lengths, b.micro_rows) > kAutoMicroTokens) --b.micro_rows;
  }
  b.micro_rows = config.data.packing ? std::min(b.micro_rows, b.rows) : 1;
  b.micro_tokens = largest(lengths, b.micro_rows);
  return b;
}

Value NumericPlan::to_value() const {
  Value value;
  value.set("backend", backend);
  value.set("compute", name(compute));
  value.set("micro_rows", micro_rows);
  value.set("token_tile", token_tile);
  value.set("head_chunk_rows", head_chunk_rows);
  return value;
}

Trainer::Trainer(const RunConfig& config, const ModelFolder& folder, std::unique_ptr<Device> device,
                 OpsFactory make_ops, const StepBounds& bounds, const Adapter* start)
    : run_(config),
      start_(start),
      folder_(folder),
      config_(folder.config()),
      bounds_(bounds),
      device_(std::move(device)),
      table_(make_piece_table(folder)),
      adapter_(start ? AdapterParameters(table_, *start, config.lora.init_from)
                     : AdapterParameters(table_, adapter_options(config.lora))) {
  if (adapter_.is_full(Field::Head)) base_head_ = std::exchange(table_.head_chunks, {});
  if (adapter_.embed_rank() > 0 && device_->name() != "cpu")
    fail(ErrorCode::Usage,
         "lora.targets: adapters of the embedding are trained on the CPU only; set device to cpu");
  numeric_ = {activation_dtype(config.compute, table_.embed.dtype, *device_), bounds.micro_rows,
              config.train.token_tile, table_.head_chunk_rows, device_->name()};
  loss_scale_ = LossScale(numeric_.compute == DType::F16);
  if (bounds.row_tokens > config_.max_positions)
    fail(ErrorCode::Usage,
         "a row of {} tokens; the model has {} positions: set data.max_tokens to it, and "
         "data.too_long",
         bounds.row_tokens, config_.max_positions);
  block_limits_ = {bounds.micro_tokens, run_.train.token_tile, bounds.row_tokens, bounds.tokens,
                   true, adapter_.embed_rank()};
  OpsLimits limits;
  limits.rows = std::min(run_.train.token_tile, std::max(bounds.micro_tokens, bounds.target_rows));
  limits.tokens = bounds.micro_tokens;
  limits.width = std::max(widest_linear(table_.spec), config_.C + adapter_.head_rank());
  limits.rank = adapter_.largest_rank();
  limits.dora = adapter_.config().dora;
  limits.vocab_chunk = table_.head_chunk_rows;
  limits.heads = config_.H;
  limits.head_size = config_.D;
  // What is left before the scratch is taken, which the plan counts.
  device_budget_ = run_.memory.vram_bytes > 0 ? run_.memory.vram_bytes : device_->free_bytes();
  ops_ = make_ops(*device_, static_cast<int>(run_.threads), limits);

  // Where all head chunks are at hand a tile of rows passes them together; streamed chunks are
  // passed by all rows.
  const int64_t tile = run_.train.token_tile;
  const HeadLimits at_once{bounds.target_rows,    tile, bounds.target_rows, true,
                           adapter_.head_rank(), table_.head_chunk_rows};
  HeadLimits in_tiles = at_once;
  in_tiles.group_rows = std::min(tile, bounds.target_rows);
  const auto head_is_resident = [&](const Plan& plan) {
    return std::all_of(plan.weights.resident.begin() + config_.L, plan.weights.resident.end(),
                       [](bool resident) { return resident; });
  };
  head_limits_ = at_once;  // a budget that does must do for a streamed head
  plan_ = make_plan(plan_request(head_limits_));
  if (head_is_resident(plan_)) {
    Plan plan = make_plan(plan_request(in_tiles));
    if (head_is_resident(plan)) {
      plan_ = std::move(plan);
      head_limits_ = in_tiles;
    }
  }
  log::info("memory plan\n{}", plan_.table());
  if (plan_.weights.in_place && run_.memory.slots > 0)
    log::warn("weights are used in place: memory.slots has no effect");
  if (!run_.log.trace.empty()) trace_ = std::make_unique<Trace>(*device_, run_.log.trace);
  plan_.host.disk = disk_mode();
  store_ = std::make_unique<HostStore>(folder, table_, *device_, plan_.host, trace_.get());
  allocate();
}

DiskMode Trainer::disk_mode() const {
  if (!reads_into_memory()) return DiskMode::Mmap;
  if (run_.memory.disk == "direct") return DiskMode::Direct;
  if (run_.memory.disk == "buffered") return DiskMode::Buffered;
  return faster_disk_mode(folder_, INT64_MAX);
}

// Full matrices begin as the base's. Magnitudes begin as the lengths of the weights' rows, which
// takes a visit of every block.
void Trainer::initialise_adapter() {
  if (start_) return adapter_.load(*start_);
  adapter_.initialise(static_cast<uint64_t>(run_.seed));
  if (adapter_.is_full(Field::Embed)) take_base(table_.embed, Field::Embed, 0);
  for (size_t chunk = 0; chunk < base_head_.size(); ++chunk)
    take_base(base_head_[chunk].pieces[0].fields[0], Field::Head,
              static_cast<int64_t>(chunk) * table_.head_chunk_rows);
  if (!run_.lora.dora) return;
  stream_->begin_pass(forward_visits(config_.L, 0));
  for (int64_t block = 0; block < config_.L; ++block) {
    const Lease w = stream_->acquire(block);
    adapter_.update_norms(*ops_, w.weights(), block);
    adapter_.take_magnitudes(block);
  }
}

// Reads the rows of a base matrix from its file into those of the adapter's from `first_row` on, a
// chunk at a time: the host store need not hold it.
void Trainer::take_base(const PlacedField& base, Field field, int64_t first_row) {
  const int64_t rows = base.shape[0], row_bytes = base.bytes / rows;
  const int64_t step = std::max<int64_t>(1, kBaseChunkBytes / row_bytes);
  std::vector<std::byte> chunk(static_cast<size_t>(std::min(rows, step) * row_bytes));
  for (int64_t row = 0; row < rows; row += step) {
    const int64_t count = std::min(step, rows - row);
    folder_.files()[base.file].file().read_at(chunk.data(), count * row_bytes,
                                              base.file_offset + row * row_bytes);
    adapter_.take_base(field, {chunk.data(), base.dtype, {count, base.shape[1]}}, first_row + row);
  }
}

PlanRequest Trainer::plan_request(const HeadLimits& head) const {
  const int64_t x = element_bytes(numeric_.compute), parameters = adapter_.parameter_count() * 4;
  const RopeLimits rope{block_limits_.positions, block_limits_.pass_tokens};
  PlanRequest request;
  for (int64_t u = 0; u < table_.unit_count(); ++u)
    request.unit_bytes.push_back(table_.unit(u).bytes);
  request.block_count = config_.L;
  request.fixed = {
      {Tier::Device, "adapter, gradients, two moments", 4 * parameters},
      {Tier::Device, "adapted row norms", adapter_.norm_count() * 4},
      {Tier::Device, "identities of the ends' adapters", adapter_.identity_bytes()},
      {Tier::Device, "block workspace",
       Transformer::workspace_bytes(config_, numeric_.compute, block_limits_)},
      {Tier::Device, "rotary table", RopeTable::bytes(config_.rope, rope)},
      {Tier::Device, "head workspace", HeadLoss::workspace_bytes(config_, numeric_.compute, head)},
      {Tier::Device, "gradient of the block output", bounds_.tokens * config_.C * x},
      {Tier::Device, "kernel scratch", ops_->scratch_bytes()},
      {Tier::Device, "step inputs, losses, gradient norm",
       StepInputs::bytes(bounds_.tokens, bounds_.rows) +
           std::max<int64_t>(1, bounds_.target_rows) * 4 + 4},
      {Tier::Device, "final norm", LayerStream::always_bytes(table_)},
      {Tier::Pinned, "step inputs (host)", StepInputs::bytes(bounds_.tokens, bounds_.rows)},
      {Tier::Pinned, "rotary table (host)", RopeTable::pinned_bytes(config_.rope, rope)}};
  request.boundary_count = config_.L + 1;
  request.boundary_bytes = bounds_.tokens * config_.C * x;
  request.kept_bytes_per_block = kept_block_bytes();
  request.device_budget = device_budget_;
  request.weights_in_place = device_->reads_host_memory() && HostStore::can_view(table_);
  if (reads_into_memory()) request.pinned_weights = HostImage(all_extents(table_)).bytes();
  request.residency = run_.memory.residency;
  request.slots = run_.memory.slots;
  request.activations = run_.memory.activations;
  return request;
}

void Trainer::allocate() {
  const int64_t x = element_bytes(numeric_.compute);
  adapter_.allocate(*device_, true);
  moments_ = device_->allocate(2 * adapter_.parameter_count() * 4, "optimizer moments");
  ops_->fill({moments_.data(), DType::F32, {2 * adapter_.parameter_count()}}, 0);
  stream_ = std::make_unique<LayerStream>(*device_, table_, *store_, plan_.weights, trace_.get());
  saved_ = std::make_unique<SavedStore>(*device_, config_.L + 1, bounds_.tokens * config_.C * x,
                                        plan_.offload_boundaries, trace_.get());
  transformer_ =
      std::make_unique<Transformer>(*device_, *ops_, config_, table_.spec.linear_transposed,
                                    numeric_.compute, block_limits_, &adapter_);
  head_ = std::make_unique<HeadLoss>(*device_, *ops_, *transformer_, head_limits_);
  inputs_ = std::make_unique<StepInputs>(*device_, bounds_.tokens, bounds_.rows);
  dx_ = device_->allocate(bounds_.tokens * config_.C * x, "gradient of the block output");
  losses_ = device_->allocate(std::max<int64_t>(1, bounds_.target_rows) * 4, "losses");
  norm_ = device_->allocate(4, "gradient norm");
  if (plan_.kept_blocks > 0)
    kept_ = device_->allocate(plan_.kept_blocks * kept_block_bytes(), "kept activations");
}

StepResult Trainer::train_step(const StepBatch& batch, double lr, int64_t step) {
  const float scale = loss_scale_.scale(),
              grad_scale = scale / static_cast<float>(batch.trained_tokens);
  inputs_->upload(batch, transformer_->rope_table());
  adapter_.set_step(static_cast<uint64_t>(run_.seed), step, true);
  ops_->fill(adapter_.gradients(), 0);
  stream_->begin_pass(visits(true));

  forward(true);
  head(true, grad_scale);
  backward();
  StepResult result;
  result.skipped = !update(lr, step);
  result.loss = sum_of_losses(nullptr) / static_cast<double>(batch.trained_tokens);
  result.grad_norm = read_gradient_norm() / static_cast<double>(scale);
  result.tokens = batch.tokens;
  result.trained_tokens = batch.trained_tokens;
  if (trace_) trace_->flush(step + 1);
  return result;
}

// Blocks 0 .. L-1: every micro-batch passes a block before the next block is needed.
void Trainer::forward(bool keep) {
  MatrixView x = boundary(saved_->begin_write(0));
  const bool learned = config_.rope.kind == RopeConfig::Kind::None;
  const TensorView table = adapter_.is_full(Field::Embed) ? adapter_.full(Field::Embed)
                                                          : stream_->table(Field::Embed);
  for (const TokenBatch& micro : inputs_->micro())
    transformer_->embed(rows_of(x, micro), micro, table,
                        learned ? stream_->table(Field::Positions) : TensorView());
  if (keep) saved_->finish_write(0, boundary_bytes());
  for (int64_t block = 0; block < config_.L; ++block) {
    const Lease w = stream_->acquire(block);
    const MatrixView x_next = boundary(saved_->begin_write(block + 1));
    const Trace::Span span = compute_span("forward", block);
    adapter_.update_norms(*ops_, w.weights(), block);
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
        if (adapter_.is_full(Field::Head))
          return for_each_chunk(adapter_.full(Field::Head), table_.head_chunk_rows, use);
        for (int64_t i = 0; i < std::ssize(table_.head_chunks); ++i) {
          const Lease w = stream_->acquire(config_.L + i);
          const Trace::Span span = compute_span("head", i);
          use(w[Field::Head], i * table_.head_chunk_rows);
        }
      },
      grad_scale, adapter_.full_gradient(Field::Head));
}

// Blocks L-1 .. lowest trained; the gradient of a block's input takes the place of its output's.
void Trainer::backward() {
  const MatrixView dx = boundary(dx_.data());
  const int64_t lowest = adapter_.lowest_block();
  for (int64_t block = config_.L - 1; block >= std::max<int64_t>(0, lowest); --block) {
    const Lease w = stream_->acquire(block);
    const MatrixView x = boundary(saved_->begin_read(block, boundary_bytes()));
    const Trace::Span span = compute_span("backward", block);
    for (const TokenBatch& micro : inputs_->micro())
      transformer_->block_backward(rows_of(dx, micro), rows_of(x, micro), w.weights(), block, micro,
                                   kept(block, micro), block > lowest);
  }
  for (const TokenBatch& micro : inputs_->micro())
    transformer_->embed_backward(rows_of(dx, micro), micro);
  if (adapter_.is_full(Field::Embed))
    for (const TokenBatch& micro : inputs_->micro())
      ops_->embedding_backward(adapter_.full_gradient(Field::Embed), micro.ids,
                               rows_of(dx, micro));
}

// Of the scaled gradients; waits for it.
double Trainer::read_gradient_norm() {
  float squared = 0;
  device_->copy_async(Queue::Compute, &squared, norm_.data(), 4);
  device_->synchronize(Queue::Compute);
  return std::sqrt(static_cast<double>(squared));
}

// False where the gradients overflowed, which leaves everything as it is.
bool Trainer::update(double lr, int64_t step) {
  store_->check_files();  // a gradient of weights that have changed is not applied
  const TensorView norm(norm_.data(), DType::F32, {1});
  const Trace::Span span(trace_.get(), Queue::Compute, "update");
  ops_->squared_norm(norm, adapter_.gradients());
  AdamWStep s;
  s.grad_scale = 1 / loss_scale_.scale();
  if (loss_scale_.is_on() && !loss_scale_.accepts(read_gradient_norm())) return false;
  s.lr = static_cast<float>(lr);
  s.beta1 = static_cast<float>(run_.optimizer.beta1);
  s.beta2 = static_cast<float>(run_.optimizer.beta2);
  s.eps = static_cast<float>(run_.optimizer.eps);
  s.weight_decay = static_cast<float>(run_.optimizer.weight_decay);
  s.step = step + 1 - loss_scale_.skipped();
  s.clip = static_cast<float>(run_.optimizer.clip);
  const double embedding_factor = run_.lora.plus_embedding_lr / run_.optimizer.lr;
  for (const ParameterRun& run : adapter_.runs(run_.lora.plus_ratio, embedding_factor)) {
    s.lr = static_cast<float>(lr * run.lr_factor);
    ops_->adamw(part_of(adapter_.values(), run), part_of(adapter_.gradients(), run),
                part_of(moment1(), run), part_of(moment2(), run), norm, s);
  }
  adapter_.values_changed();
  return true;
}

double Trainer::evaluate(const StepBatch& batch, std::vector<float>* losses) {
  inputs_->upload(batch, transformer_->rope_table());
  adapter_.set_step(static_cast<uint64_t>(run_.seed), 0, false);
  stream_->begin_pass(visits(false));
  forward(false);
  head(false, 0);
  store_->check_files();
  return sum_of_losses(losses);
}

double Trainer::sum_of_losses(std::vector<float>* out) {
  std::vector<float> values(static_cast<size_t>(inputs_->targets().shape[0]));
  device_->copy_async(Queue::Compute, values.data(), losses_.data(),
                      static_cast<int64_t>(values.size()) * 4);
  device_->synchronize(Queue::Compute);
  double sum = 0;
  for (float loss : values) sum += static_cast<double>(loss);
  if (out) *out = std::move(values);
  return sum;
}

std::vector<int64_t> Trainer::visits(bool training) const {
  const auto chunks = static_cast<int64_t>(table_.head_chunks.size());
  std::vector<int64_t> order = forward_visits(config_.L, 0);
  const bool twice = training && adapter_.head_rank() > 0;
  for (int64_t group = 0; group < head_->visits(inputs_->targets().shape[0], twice); ++group)
    for (int64_t chunk = 0; chunk < chunks; ++chunk) order.push_back(config_.L + chunk);
  const int64_t lowest = std::max<int64_t>(0, adapter_.lowest_block());
  for (int64_t block = config_.L - 1; training && block >= lowest; --block)
    order.push_back(block);
  return order;
}

int64_t Trainer::kept_block_bytes() const {
  const int64_t x = element_bytes(numeric_.compute), heads = config_.H * config_.D;
  const int64_t columns = config_.qkv_cols() + (config_.qk_norm ? config_.qk_cols() : 0) + heads +
                          config_.C + config_.mlp_in_cols();
  return (bounds_.tokens * (columns * x + config_.H * 4) + 63) / 64 * 64;
}

// The last kept_blocks blocks keep their activations; each tensor of a block spans the whole step.
KeptActivations Trainer::kept(int64_t block, const TokenBatch& micro) const {
  const int64_t index = block - (config_.L - plan_.kept_blocks);
  if (index < 0) return {};
  std::byte* at = kept_.data() + index * kept_block_bytes();
  const auto take = [&](int64_t cols, DType dtype) {
    std::byte* base = at;
    at += bounds_.tokens * cols * element_bytes(dtype);
    return MatrixView(base, dtype, bounds_.tokens, cols)
        .row_range(micro.first_row, micro.first_row + micro.tokens);
  };
  KeptActivations k;
  k.lse = {take(config_.H, DType::F32).data, DType::F32, {micro.tokens, config_.H}};
  k.qkv = take(config_.qkv_cols(), numeric_.compute);
  if (config_.qk_norm) k.qk = take(config_.qk_cols(), numeric_.compute);
  k.o = take(config_.H * config_.D, numeric_.compute);
  k.x_mid = take(config_.C, numeric_.compute);
  k.mlp_in = take(config_.mlp_in_cols(), numeric_.compute);
  return k;
}

TensorView Trainer::moment1() const {
  return {moments_.data(), DType::F32, {adapter_.parameter_count()}};
}
TensorView Trainer::moment2() const {
  return {
      moments_.data() + adapter_.parameter_count() * 4, DType::F32, {adapter_.parameter_count()}};
}

}  // namespace lema
