// Limits first, then every buffer, then where it goes.
#include "train/run_plan.h"

#include <algorithm>
#include <utility>

#include "model/carver.h"
#include "core/units.h"
#include "stream/embedding_rows.h"
#include "stream/saved_store.h"
#include "train/init_adapter.h"
#include "train/step_inputs.h"

namespace lema {
namespace {

// What the process takes beside the buffers, measured: heap, stacks and tables of a run that has
// loaded its model and data (less the rows), and the pages of the program and its libraries.
constexpr int64_t kProgramBytes = 1'700'000;
constexpr int64_t kProgramPages = 9'800'000;
// Where weights are read into memory: stacks of the reader's threads, io_uring's rings.
constexpr int64_t kReaderBytes = 2'000'000;

// On a GPU, measured (H100, driver 580): what is left over in the 2 MiB pages of a run's buffers,
// and the heap of the driver and of the libraries with all kernels loaded.
constexpr int64_t kPageEnds = 13 << 20;
constexpr int64_t kDriverBytes = 440'000'000;

// Pages of the embedding that gathering these ids brings in: the kernel maps what it has of 64 KiB
// around a page that is touched.
int64_t embedding_pages(const PlacedField& embed, const std::vector<bool>& used_ids) {
  constexpr int64_t kAround = 64 << 10;
  const int64_t row = embed.bytes / embed.shape[0];
  int64_t windows = 0, next = 0;
  for (size_t id = 0; id < used_ids.size(); ++id) {
    if (!used_ids[id]) continue;
    const int64_t begin = embed.file_offset + static_cast<int64_t>(id) * row;
    const int64_t first = std::max(next, begin / kAround), end = (begin + row - 1) / kAround + 1;
    windows += std::max<int64_t>(0, end - first);
    next = std::max(next, end);
  }
  return windows * kAround;
}

std::vector<PlanLine> host_lines(const RunPlan& plan, const RunModel& model,
                                 const DataFacts& data) {
  const StepBounds& b = plan.bounds;
  const auto rows = std::ssize(data.train) + std::ssize(data.eval);
  std::vector<PlanLine> lines = {
      {Tier::Host, "program, tables of the model", kProgramBytes},
      {Tier::Host, "rows of the data, their order", data.bytes + rows * 8},
      {Tier::Host, "batch of a step", b.tokens * 20 + b.target_rows * 20},
      {Tier::Host, "adapter values on their way (start, checkpoints)",
       model.adapter.parameter_count() * 4},
      {Tier::Mapped, "program and libraries", kProgramPages}};
  if (plan.reads_into_memory)
    lines.push_back({Tier::Host, "disk reader, its threads", kReaderBytes});
  // Where the embedding is no part of the units, which are counted whole.
  const bool is_apart = !model.table.spec.has_tied_head() || !model.base_head.empty();
  if (!plan.reads_into_memory && is_apart && !model.adapter.is_full(Field::Embed))
    lines.push_back({Tier::Mapped, "embedding rows of the data",
                     embedding_pages(model.table.embed, data.used_ids)});
  return lines;
}

// The buffers that are needed whatever is placed where.
std::vector<PlanLine> fixed_lines(const RunPlan& plan, const RunModel& model, int64_t scratch) {
  const ModelConfig& c = model.folder.config();
  const StepBounds& b = plan.bounds;
  const DType X = plan.numeric.compute;
  const int64_t inputs = StepInputs::bytes(b.tokens, b.rows);
  const RopeLimits rope{plan.blocks.positions, plan.blocks.pass_tokens};
  return {{Tier::Device, "adapter, gradients, two moments", 16 * model.adapter.parameter_count()},
          {Tier::Device, "adapted row norms", model.adapter.norm_count() * 4},
          {Tier::Device, "identities of the ends' adapters", model.adapter.identity_bytes()},
          {Tier::Device, "block workspace", Transformer::workspace_bytes(c, X, plan.blocks)},
          {Tier::Device, "rotary table", RopeTable::bytes(c.rope, rope)},
          {Tier::Device, "head workspace", HeadLoss::workspace_bytes(c, X, plan.head)},
          {Tier::Device, "gradient of the block output", b.tokens * c.C * element_bytes(X)},
          {Tier::Device, "kernel scratch", scratch},
          {Tier::Device, "step inputs, losses, norms",
           inputs + (kNormSlots + b.target_rows) * 4},
          {Tier::Device, "final norm", LayerStream::always_bytes(model.table)},
          {Tier::Pinned, "step inputs (host)", inputs},
          {Tier::Pinned, "rotary table (host)", RopeTable::pinned_bytes(c.rope, rope)}};
}

PlanRequest plan_request(const RunConfig& config, const RunPlan& plan, const RunModel& model,
                         const Device& device, const DataFacts& data, int64_t scratch) {
  const ModelConfig& c = model.folder.config();
  const DType X = plan.numeric.compute;
  PlanRequest request = weights_request(model.table, device);
  if (!plan.reads_into_memory) request.pinned_weights = 0;
  request.block_count = c.L;
  request.fixed = fixed_lines(plan, model, scratch);
  for (PlanLine& line : host_lines(plan, model, data)) request.fixed.push_back(std::move(line));
  request.boundary_count = c.L + 1;
  request.boundary_bytes = SavedStore::stride(plan.bounds.tokens * c.C * element_bytes(X));
  request.kept_bytes_per_block = kept_block_bytes(c, X, plan.bounds.tokens);
  request.device_budget_is_set = config.memory.vram_bytes > 0;
  request.device_budget = plan.vram_budget;
  request.weights_in_place = device.reads_host_memory() && HostStore::can_view(model.table);
  if (device.needs_pinned_weights()) {
    request.fixed.push_back({Tier::Device, "ends of the buffers' pages", kPageEnds});
    request.fixed.push_back({Tier::Host, "driver of the GPU, its libraries", kDriverBytes});
  }
  request.ram.budget = plan.ram_budget;
  request.ram.is_set = config.memory.ram_bytes > 0;
  request.ram.holds_device = plan.shares_memory;
  if (!model.adapter.is_full(Field::Embed))
    request.ram.row_bytes = EmbeddingRows::bytes(model.table.embed, plan.bounds.tokens);
  request.residency = config.memory.residency;
  request.slots = config.memory.slots;
  request.activations = config.memory.activations;
  return request;
}

OpsLimits ops_limits(const RunConfig& config, const RunModel& model, const StepBounds& bounds) {
  OpsLimits limits;
  limits.rows = std::min(config.train.token_tile, bounds.scratch_rows);
  limits.tokens = bounds.micro_tokens;
  limits.width = std::max(widest_linear(model.table.spec),
                          model.folder.config().C + model.adapter.head_rank());
  limits.rank = model.adapter.largest_rank();
  limits.dora = model.adapter.config().dora;
  limits.vocab_chunk = model.table.head_chunk_rows;
  limits.heads = model.folder.config().H;
  limits.head_size = model.folder.config().D;
  return limits;
}

}  // namespace

Value NumericPlan::to_value() const {
  Value value;
  value.set("backend", backend);
  value.set("arithmetic", arithmetic);
  value.set("compute", name(compute));
  value.set("micro_rows", micro_rows);
  value.set("token_tile", token_tile);
  value.set("head_chunk_rows", head_chunk_rows);
  return value;
}

int64_t RunPlan::anonymous_bytes() const {
  return placement.bytes(Tier::Pinned) + placement.bytes(Tier::Host) +
         (shares_memory ? placement.bytes(Tier::Device) : 0);
}

std::string RunPlan::table() const {
  return fmt::format("{}  process {:>11}  of its own at the peak, and {} of mapped files\n",
                     placement.table(), format_bytes(anonymous_bytes()),
                     format_bytes(placement.bytes(Tier::Mapped)));
}

Value RunPlan::to_value() const {
  Value value = placement.to_value();
  value.set("process_bytes", anonymous_bytes());
  value.set("numeric", numeric.to_value());
  return value;
}

RunModel::RunModel(const ModelFolder& folder_, const RunConfig& config, const Adapter* start)
    : folder(folder_),
      table(make_piece_table(folder)),
      adapter(start ? AdapterParameters(table, *start, config.lora.init_from)
                    : AdapterParameters(table, adapter_options(config.lora))) {
  if (adapter.is_full(Field::Head)) base_head = std::exchange(table.head_chunks, {});
}

KeptActivations kept_block(const ModelConfig& config, DType X, int64_t tokens, std::byte* base,
                           int64_t* bytes) {
  Carver carver(base);
  const auto matrix = [&](int64_t cols) {
    return MatrixView(carver.take(tokens * cols * element_bytes(X)), X, tokens, cols);
  };
  KeptActivations kept;
  kept.lse = {carver.take(tokens * config.H * 4), DType::F32, {tokens, config.H}};
  kept.qkv = matrix(config.qkv_cols());
  if (config.qk_norm) kept.qk = matrix(config.qk_cols());
  kept.o = matrix(config.H * config.D);
  kept.x_mid = matrix(config.C);
  kept.mlp_in = matrix(config.mlp_in_cols());
  if (bytes) *bytes = carver.used();
  return kept;
}

int64_t kept_block_bytes(const ModelConfig& config, DType X, int64_t tokens) {
  int64_t bytes = 0;
  kept_block(config, X, tokens, nullptr, &bytes);
  return bytes;
}

namespace {

// All but the placement, for a head whose chunks are streamed past all rows.
RunPlan make_limits(const RunConfig& config, const RunModel& model, const Device& device,
                    const DataFacts& data, int64_t available) {
  const ModelConfig& c = model.folder.config();
  const int64_t tile = config.train.token_tile;
  RunPlan plan;
  plan.bounds = step_bounds(config, data);
  const StepBounds& b = plan.bounds;
  if (b.row_tokens > c.max_positions)
    fail(ErrorCode::Usage,
         "a row of {} tokens; the model has {} positions: set data.max_tokens to it, and "
         "data.too_long",
         b.row_tokens, c.max_positions);
  plan.numeric = {activation_dtype(config.compute, model.table.embed.dtype, device), b.micro_rows,
                  tile, model.table.head_chunk_rows, device.name(), device.arithmetic()};
  plan.blocks = {b.micro_tokens, tile, b.row_tokens, b.tokens, true, model.adapter.embed_rank()};
  plan.head = {b.target_rows,
               tile,
               b.target_rows,
               true,
               model.adapter.head_rank(),
               model.table.head_chunk_rows};
  if (model.adapter.embed_rank() > 0 && device.name() != "cpu")
    fail(ErrorCode::Usage,
         "lora.targets: adapters of the embedding are trained on the CPU only; set device to cpu");
  plan.ops = ops_limits(config, model, b);
  plan.shares_memory = device.reads_host_memory();
  plan.ram_budget = config.memory.ram_bytes > 0 ? config.memory.ram_bytes : available;
  plan.vram_budget = device_budget(config, device);
  plan.reads_into_memory = config.memory.disk == "buffered" || config.memory.disk == "direct" ||
                           plan.ram_budget > 0 || device.needs_pinned_weights();
  return plan;
}

int64_t scratch_bytes(const RunConfig& config, const OpsFactory& ops, const RunPlan& plan) {
  return ops.scratch_bytes(static_cast<int>(config.threads), plan.ops);
}

}  // namespace

int64_t device_budget(const RunConfig& config, const Device& device) {
  return config.memory.vram_bytes > 0 ? config.memory.vram_bytes : device.free_bytes();
}

RunPlan make_run_plan(const RunConfig& config, const RunModel& model, const Device& device,
                      const OpsFactory& ops, const DataFacts& data, int64_t available) {
  RunPlan plan = make_limits(config, model, device, data, available);
  const int64_t scratch = scratch_bytes(config, ops, plan);
  // Where all head chunks are at hand a tile of rows passes them together; streamed chunks are
  // passed by all rows.
  const auto place = [&](RunPlan& p) {
    p.placement = make_plan(plan_request(config, p, model, device, data, scratch));
    const std::vector<bool>& resident = p.placement.weights.resident;
    return std::all_of(resident.begin() + model.folder.config().L, resident.end(),
                       [](bool is_resident) { return is_resident; });
  };
  if (!place(plan)) return plan;  // a budget that does must do for a streamed head
  RunPlan in_tiles = plan;
  in_tiles.head.group_rows = std::min(plan.numeric.token_tile, plan.bounds.target_rows);
  return place(in_tiles) ? in_tiles : plan;
}

int64_t least_device_bytes(const RunConfig& config, const RunModel& model, const Device& device,
                           const OpsFactory& ops, const DataFacts& data) {
  const RunPlan plan = make_limits(config, model, device, data, 0);
  PlanRequest request =
      plan_request(config, plan, model, device, data, scratch_bytes(config, ops, plan));
  request.device_budget = std::max<int64_t>(1, request.device_budget);
  return least_device_bytes(request);
}

int64_t least_host_bytes(const RunConfig& config, const RunModel& model, const Device& device,
                         const OpsFactory& ops, const DataFacts& data, int64_t available) {
  const RunPlan plan = make_limits(config, model, device, data, available);
  PlanRequest request =
      plan_request(config, plan, model, device, data, scratch_bytes(config, ops, plan));
  request.ram.budget = std::max<int64_t>(1, request.ram.budget);
  return least_host_bytes(request);
}

}  // namespace lema
