// Assembly of device, ops, weights and transformer for inference, and the pass over the blocks.
#include "generate/opened_model.h"

#include <algorithm>
#include <utility>

#include "core/log.h"
#include "core/memory.h"
#include "core/units.h"
#include "model/opened_adapter.h"

namespace lema {

OpenedModel::OpenedModel(const ModelFolder& folder, const OpenOptions& options,
                         const PassLimits& limits)
    : OpenedModel(folder, options.backend(options.device), options, limits) {}

OpenedModel::OpenedModel(const ModelFolder& folder, Backend backend, const OpenOptions& options,
                         const PassLimits& limits)
    : folder_(folder),
      config_(folder.config()),
      limits_(limits),
      ram_bytes_(options.ram_bytes),
      device_(std::move(backend.device)),
      table_(make_piece_table(folder)),
      X_(lema::activation_dtype(options.compute, table_.embed.dtype, *device_)) {
  if (limits.positions > config_.max_positions)
    fail(ErrorCode::Usage,
         "a context of {} tokens; {} has {} positions (max_position_embeddings, or what RoPE "
         "scaling makes of them)",
         limits.positions, folder.path().string(), config_.max_positions);
  if (!options.adapter.empty()) {
    const Adapter adapter = open_adapter(options.adapter, folder, table_.spec);
    adapter_ = std::make_unique<AdapterParameters>(table_, adapter, options.adapter.string());
    adapter_->allocate(*device_, false);
    adapter_->load(adapter);
    adapter_->set_step(0, 0, false);
    if (adapter_->is_full(Field::Head)) table_.head_chunks.clear();
  }
  ops_ = backend.ops.make(*device_, static_cast<int>(options.threads), ops_limits());
  const TransformerLimits block_limits{limits.tokens, limits.tokens, limits.positions,
                                       limits.tokens, false,
                                       adapter_ ? adapter_->embed_rank() : 0};
  transformer_ = std::make_unique<Transformer>(
      *device_, *ops_, config_, table_.spec.linear_transposed, X_, block_limits, adapter_.get());
  x_ = device_->allocate(2 * limits.tokens * config_.C * element_bytes(X_),
                         "block input and output");
}

void OpenedModel::place_weights() {
  const Plan placement = plan();
  store_ = std::make_unique<HostStore>(folder_, table_, *device_, placement.host);
  stream_ = std::make_unique<LayerStream>(*device_, table_, *store_, placement.weights);
  if (!store_->has_embedding() && !has_own_embedding())
    embedding_rows_ =
        std::make_unique<EmbeddingRows>(folder_, table_.embed, *device_, limits_.tokens);
}

// On the CPU in place where every weight lies at a multiple of its element size, as in files that
// lema wrote, else copied once. On a GPU as much is resident as its memory holds, and as much of
// the rest in host memory as that does.
Plan OpenedModel::plan() const {
  if (device_->reads_host_memory()) {
    Plan mapped;
    mapped.weights = {HostStore::can_view(table_),
                      std::vector<bool>(static_cast<size_t>(table_.unit_count()), true), 0};
    return mapped;
  }
  PlanRequest request = weights_request(table_, *device_);
  request.device_budget = device_->free_bytes();
  request.ram.is_set = ram_bytes_ > 0;
  request.ram.budget =
      ram_bytes_ > 0 ? ram_bytes_ : std::max<int64_t>(1, less_reserve(available_memory()));
  request.ram.key = "--ram";
  if (!has_own_embedding())
    request.ram.row_bytes = EmbeddingRows::bytes(table_.embed, limits_.tokens);
  const int64_t least = least_device_bytes(request);
  if (request.device_budget > 0 && request.device_budget < least)
    fail(ErrorCode::DoesNotFit,
         "{}: {} are left for weights, which need {} at least; ask for a shorter context or fewer "
         "replies at once, or use the CPU",
         device_->name(), format_bytes(request.device_budget), format_bytes(least));
  Plan plan = make_plan(request);
  if (!plan.host.holds_all)
    log::info("{} of memory cannot hold all weights: what is on no GPU either comes from disk in "
              "every pass",
              format_bytes(request.ram.budget));
  return plan;
}

bool OpenedModel::has_own_embedding() const { return adapter_ && adapter_->is_full(Field::Embed); }

void OpenedModel::put_ids(TokenBatch& batch, PassInputs& inputs, const std::vector<int32_t>& ids) {
  batch.ids = inputs.put(ids, {std::ssize(ids)});
  if (!embedding_rows_) return;
  std::vector<int32_t> rows = ids;
  embedding_rows_->begin_pass();
  embedding_rows_->map(rows);
  batch.table_rows = inputs.put(rows, {std::ssize(rows)});
  embedding_rows_->read();
}

OpsLimits OpenedModel::ops_limits() const {
  OpsLimits limits;
  limits.rows = limits.tokens = limits_.tokens;
  limits.width =
      std::max({config_.C + head_rank(), widest_linear(table_.spec), table_.head_chunk_rows});
  limits.rank = adapter_ ? adapter_->largest_rank() : 0;
  limits.dora = adapter_ && adapter_->config().dora;
  limits.vocab_chunk = table_.head_chunk_rows;
  limits.heads = config_.H;
  limits.head_size = config_.D;
  return limits;
}

MatrixView OpenedModel::forward(const TokenBatch& batch, const KvCache* cache,
                                TensorView token_rows, int64_t head_visits) {
  const int64_t chunks = std::ssize(table_.head_chunks);
  std::vector<int64_t> visits = forward_visits(config_.L, 0);
  for (int64_t i = 0; i < head_visits * chunks; ++i) visits.push_back(config_.L + i % chunks);
  stream_->begin_pass(std::move(visits));

  MatrixView x(x_.data(), X_, batch.tokens, config_.C);
  MatrixView x_next(x_.data() + limits_.tokens * config_.C * element_bytes(X_), X_, batch.tokens,
                    config_.C);
  const bool learned = config_.rope.kind == RopeConfig::Kind::None;
  const TensorView table = has_own_embedding() ? adapter_->full(Field::Embed)
                           : embedding_rows_   ? embedding_rows_->table()
                                               : stream_->table(Field::Embed);
  transformer_->embed(x, batch, table, learned ? stream_->table(Field::Positions) : TensorView());
  for (int64_t block = 0; block < config_.L; ++block) {
    const Lease w = stream_->acquire(block);
    if (adapter_) adapter_->update_norms(*ops_, w.weights(), block);
    const KvCacheView view = cache ? KvCacheView{cache->block(block), token_rows} : KvCacheView();
    transformer_->block_forward(x_next, x, w.weights(), block, batch, {}, cache ? &view : nullptr);
    std::swap(x, x_next);
  }
  store_->check_files();
  return x;
}

void OpenedModel::visit_head(const std::function<void(TensorView, int64_t)>& use) {
  if (adapter_ && adapter_->is_full(Field::Head))
    return for_each_chunk(adapter_->full(Field::Head), table_.head_chunk_rows, use);
  for (int64_t chunk = 0; chunk < std::ssize(table_.head_chunks); ++chunk) {
    const Lease w = stream_->acquire(config_.L + chunk);
    use(w[Field::Head], chunk * table_.head_chunk_rows);
  }
  store_->check_files();
}

void OpenedModel::logits(MatrixView logits, MatrixView x) {
  visit_head([&](TensorView weight, int64_t v_begin) {
    const LoraView lora = adapter_ ? adapter_->head_rows(*ops_, weight, v_begin) : LoraView();
    const LinearPart part{weight, false, {}, lora.a ? &lora : nullptr};
    ops_->linear(logits.col_range(v_begin, v_begin + weight.shape[0]), x, {&part, 1},
                 Write::Overwrite);
  });
}

void OpenedModel::final_norm(MatrixView y, MatrixView x) {
  transformer_->norm(y, x, stream_->resident(Field::NormFinal),
                     stream_->resident(Field::NormFinalBias));
}

}  // namespace lema
