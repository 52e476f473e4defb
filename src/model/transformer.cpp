// Blocks as lists of ops. train_step and the generator call these; nothing here allocates after
// construction.
#include "model/transformer.h"

#include <algorithm>
#include <cmath>

#include "model/carver.h"

namespace lema {
namespace {

using Regions = Transformer::Regions;

int64_t carve(const ModelConfig& c, DType X, const TransformerLimits& limits, std::byte* base,
              Regions& r) {
  const int64_t x = element_bytes(X), M = limits.micro_tokens, T = std::min(limits.token_tile, M);
  Carver carver(base);
  r.qkv = carver.take(M * c.qkv_cols() * x);
  r.o = carver.take(M * c.H * c.D * x);
  r.x_mid = carver.take(M * c.C * x);
  r.norm = carver.take(T * c.C * x);
  r.mlp_in = carver.take(T * c.mlp_in_cols() * x);
  r.act = carver.take(T * c.F * x);
  if (limits.embed_rank > 0) r.embed_h = carver.take(T * limits.embed_rank * x);
  if (!limits.training) return carver.used();
  r.lse = carver.take(M * c.H * 4);
  if (c.qk_norm) r.qk = carver.take(M * c.qk_cols() * x);
  r.d_qkv = carver.take(M * c.qkv_cols() * x);
  r.d_o = carver.take(M * c.H * c.D * x);
  r.d_act = carver.take(T * c.F * x);
  r.d_norm = carver.take(T * c.C * x);
  if (limits.embed_rank > 0) r.d_embed_h = carver.take(T * limits.embed_rank * x);
  return carver.used();
}

// Calls visit(begin, end) for the fixed tiles of [0, tokens).
template <typename Visit>
void for_each_tile(int64_t tokens, int64_t tile, Visit visit) {
  for (int64_t begin = 0; begin < tokens; begin += tile)
    visit(begin, std::min(tokens, begin + tile));
}

}  // namespace

// A matrix and its bias; kCount: no family has one.
struct LinearFields {
  Field weight, bias;
};

// The parts of one linear (q|k|v, gate|up, ...) with their adapters. Holds what the LinearPart
// pointers refer to.
class Transformer::Parts {
 public:
  Parts(const Transformer& t, const WeightViews& w, int64_t block, int64_t first_row,
        std::span<const LinearFields> sources) {
    for (const LinearFields& source : sources) {
      if (!w[source.weight]) continue;
      LinearPart& part = parts_[count_];
      part.weight = w[source.weight];
      part.transposed = t.transposed_;
      if (source.bias != Field::kCount) part.bias = w[source.bias];
      if (t.adapter_) {
        lora_[count_] = t.adapter_->view(block, source.weight);
        lora_[count_].first_row = first_row;
        if (lora_[count_].a) part.lora = &lora_[count_];
      }
      ++count_;
    }
  }
  Parts(const Parts&) = delete;
  operator std::span<const LinearPart>() const {
    return {parts_.data(), count_};
  }  // NOLINT: an argument of Ops

 private:
  std::array<LinearPart, 4> parts_;
  std::array<LoraView, 4> lora_;
  size_t count_ = 0;
};

namespace {

// The linears of a block, in every family: the fields a family lacks are null and drop out.
constexpr LinearFields kQkv[] = {{Field::Wq, Field::BiasQ},
                                 {Field::Wk, Field::BiasK},
                                 {Field::Wv, Field::BiasV},
                                 {Field::Wqkv, Field::BiasQkv}};
constexpr LinearFields kOut[] = {{Field::Wo, Field::BiasO}};
constexpr LinearFields kMlpIn[] = {{Field::WGate, Field::BiasGate},
                                   {Field::WUp, Field::BiasUp},
                                   {Field::WGateUp, Field::kCount},
                                   {Field::WFc, Field::BiasFc}};
constexpr LinearFields kMlpOut[] = {{Field::WDown, Field::BiasDown},
                                    {Field::WProj, Field::BiasProj}};

}  // namespace

DType activation_dtype(const std::string& compute, DType stored, const Device& device) {
  if (compute == "f32") return DType::F32;
  if (compute == "bf16") return DType::BF16;
  if (compute == "f16" && device.reads_host_memory())
    fail(ErrorCode::Usage, "compute f16: a GPU only; the CPU computes in f32 or bf16");
  if (compute == "f16") return DType::F16;
  check(compute == "auto", "compute {}", compute);
  return device.preferred_activation(stored);
}

int64_t Transformer::workspace_bytes(const ModelConfig& config, DType X,
                                     const TransformerLimits& limits) {
  Regions unused{};
  return carve(config, X, limits, nullptr, unused);
}

Transformer::Transformer(Device& device, Ops& ops, const ModelConfig& config,
                         bool linear_transposed, DType X, const TransformerLimits& limits,
                         const AdapterParameters* adapter)
    : device_(device),
      ops_(ops),
      config_(config),
      transposed_(linear_transposed),
      X_(X),
      limits_(limits),
      adapter_(adapter),
      rope_(device, config.rope, {limits.positions, limits.pass_tokens}),
      workspace_(device.allocate(workspace_bytes(config, X, limits), "block workspace")) {
  carve(config, X, limits, workspace_.data(), r_);
}

void Transformer::norm(MatrixView y, MatrixView x, TensorView weight, TensorView bias) {
  const auto eps = static_cast<float>(config_.norm_eps);
  if (config_.family == Family::Gpt2)
    ops_.layernorm(y, x, weight, bias, eps);
  else
    ops_.rmsnorm(y, x, weight, eps);
}

void Transformer::norm_backward(MatrixView dx, MatrixView dy, MatrixView x, TensorView weight,
                                Write write) {
  const auto eps = static_cast<float>(config_.norm_eps);
  if (config_.family == Family::Gpt2)
    ops_.layernorm_backward(dx, dy, x, weight, eps, write);
  else
    ops_.rmsnorm_backward(dx, dy, x, weight, eps, write);
}

void Transformer::activate(MatrixView y, MatrixView mlp_in) {
  if (config_.activation == Activation::GeluTanh)
    ops_.gelu(y, mlp_in);
  else
    ops_.swiglu(y, mlp_in);
}

void Transformer::activate_backward(MatrixView d_mlp_in, MatrixView dy, MatrixView mlp_in) {
  if (config_.activation == Activation::GeluTanh)
    ops_.gelu_backward(d_mlp_in, dy, mlp_in);
  else
    ops_.swiglu_backward(d_mlp_in, dy, mlp_in);
}

// Each head of q and of k on its own. Ref: modeling_qwen3.py, Qwen3Attention.
void Transformer::norm_heads(MatrixView y, MatrixView x, const WeightViews& w) {
  const auto eps = static_cast<float>(config_.norm_eps);
  ops_.rmsnorm(q_of(y), q_of(x), w[Field::NormQ], eps);
  ops_.rmsnorm(k_of(y), k_of(x), w[Field::NormK], eps);
}

// In place in dx; x is what the forward pass normed.
void Transformer::norm_heads_backward(MatrixView dx, MatrixView x, const WeightViews& w) {
  const auto eps = static_cast<float>(config_.norm_eps);
  ops_.rmsnorm_backward(q_of(dx), q_of(dx), q_of(x), w[Field::NormQ], eps, Write::Overwrite);
  ops_.rmsnorm_backward(k_of(dx), k_of(dx), k_of(x), w[Field::NormK], eps, Write::Overwrite);
}

// q and k lie side by side: one call rotates all their heads.
void Transformer::rope(MatrixView qk, TensorView positions, bool inverse) {
  if (rope_) ops_.rope(qk, positions, rope_.view(), config_.D, inverse);
}

AttentionShape Transformer::attention_shape(int64_t block) const {
  // One of all positions is none. Kernels add positions to others, in 32 bits.
  const int64_t window = config_.windows[static_cast<size_t>(block)];
  return {config_.H, config_.Hkv, config_.D, 1.0f / std::sqrt(static_cast<float>(config_.D)),
          window < limits_.positions ? window : 0};
}

void Transformer::copy(MatrixView to, MatrixView from) {
  device_.copy_async(Queue::Compute, to.data, from.data, from.rows * from.cols * element_bytes(X_));
}

KeptActivations Transformer::scratch_activations(int64_t tokens) const {
  KeptActivations scratch;
  scratch.qkv = matrix(r_.qkv, tokens, config_.qkv_cols());
  if (r_.qk) scratch.qk = matrix(r_.qk, tokens, config_.qk_cols());
  scratch.o = matrix(r_.o, tokens, config_.H * config_.D);
  if (r_.lse) scratch.lse = {r_.lse, DType::F32, {tokens, config_.H}};
  scratch.x_mid = matrix(r_.x_mid, tokens, config_.C);
  return scratch;
}

void Transformer::embed(MatrixView x, const TokenBatch& batch, TensorView table,
                        TensorView positions) {
  ops_.embedding(x, batch.table_rows ? batch.table_rows : batch.ids, table, Write::Overwrite);
  if (positions) ops_.embedding(x, batch.positions, positions, Write::Accumulate);
  if (limits_.embed_rank == 0) return;
  const LoraView half = adapter_->embed_half();
  const LinearPart part = adapter_->end_linear(half);
  for_each_tile(batch.tokens, limits_.token_tile, [&](int64_t begin, int64_t end) {
    ops_.linear(x.row_range(begin, end), embed_h(batch, begin, end), {&part, 1},
                Write::Accumulate);
  });
}

// The tokens' rows of A^T.
MatrixView Transformer::embed_h(const TokenBatch& batch, int64_t begin, int64_t end) {
  const MatrixView h = matrix(r_.embed_h, end - begin, limits_.embed_rank);
  ops_.embedding(h, batch.ids.rows(begin, end), adapter_->view(-1, Field::Embed).a,
                 Write::Overwrite);
  return h;
}

void Transformer::embed_backward(MatrixView dx, const TokenBatch& batch) {
  if (limits_.embed_rank == 0) return;
  const LoraView half = adapter_->embed_half();
  const LinearPart part = adapter_->end_linear(half);
  for_each_tile(batch.tokens, limits_.token_tile, [&](int64_t begin, int64_t end) {
    const MatrixView dh = matrix(r_.d_embed_h, end - begin, limits_.embed_rank);
    ops_.linear_backward(dh, dx.row_range(begin, end), embed_h(batch, begin, end), {&part, 1},
                         Write::Overwrite);
    ops_.embedding_backward(adapter_->view(-1, Field::Embed).da, batch.ids.rows(begin, end), dh);
  });
}

void Transformer::attention_forward(const WeightViews& w, MatrixView x, int64_t block,
                                    const TokenBatch& batch, const KeptActivations& saved,
                                    const KvCacheView* cache) {
  const MatrixView qk = rotated_qk(saved);
  for_each_tile(batch.tokens, limits_.token_tile, [&](int64_t begin, int64_t end) {
    const MatrixView n = matrix(r_.norm, end - begin, config_.C),
                     qkv = saved.qkv.row_range(begin, end), qk_tile = qk.row_range(begin, end);
    norm(n, x.row_range(begin, end), w[Field::NormAttn], w[Field::NormAttnBias]);
    ops_.linear(qkv, n, Parts(*this, w, block, batch.first_row + begin, kQkv), Write::Overwrite);
    if (config_.qk_norm) norm_heads(qk_tile, qkv, w);
    rope(qk_tile, batch.positions.rows(begin, end), false);
  });
  MatrixView k = k_of(qk), v = v_of(saved.qkv);
  if (cache) {
    check(!saved.qk, "a cache takes keys and values side by side");
    ops_.scatter_rows(cache->rows, saved.qkv.col_range(config_.H * config_.D, config_.qkv_cols()),
                      cache->token_rows);
    v = cache->rows.col_range(k.cols, 2 * k.cols);
    k = cache->rows.col_range(0, k.cols);
  }
  ops_.attention(saved.o, saved.lse, q_of(qk), k, v, batch.sequences, attention_shape(block));
  copy(saved.x_mid, x);
  for_each_tile(batch.tokens, limits_.token_tile, [&](int64_t begin, int64_t end) {
    ops_.linear(saved.x_mid.row_range(begin, end), saved.o.row_range(begin, end),
                Parts(*this, w, block, batch.first_row + begin, kOut), Write::Accumulate);
  });
}

void Transformer::block_forward(MatrixView x_next, MatrixView x, const WeightViews& w,
                                int64_t block, const TokenBatch& batch, const KeptActivations& kept,
                                const KvCacheView* cache) {
  const KeptActivations saved = kept ? kept : scratch_activations(batch.tokens);
  attention_forward(w, x, block, batch, saved, cache);
  copy(x_next, saved.x_mid);
  for_each_tile(batch.tokens, limits_.token_tile, [&](int64_t begin, int64_t end) {
    const int64_t tile = end - begin, row = batch.first_row + begin;
    const MatrixView n = matrix(r_.norm, tile, config_.C), act = matrix(r_.act, tile, config_.F);
    const MatrixView mlp_in =
        kept ? kept.mlp_in.row_range(begin, end) : matrix(r_.mlp_in, tile, config_.mlp_in_cols());
    norm(n, saved.x_mid.row_range(begin, end), w[Field::NormMlp], w[Field::NormMlpBias]);
    ops_.linear(mlp_in, n, Parts(*this, w, block, row, kMlpIn), Write::Overwrite);
    activate(act, mlp_in);
    ops_.linear(x_next.row_range(begin, end), act, Parts(*this, w, block, row, kMlpOut),
                Write::Accumulate);
  });
}

void Transformer::block_backward(MatrixView dx, MatrixView x, const WeightViews& w, int64_t block,
                                 const TokenBatch& batch, const KeptActivations& kept,
                                 bool need_dx) {
  const KeptActivations saved = kept ? kept : scratch_activations(batch.tokens);
  if (!kept) attention_forward(w, x, block, batch, saved, nullptr);
  mlp_backward(dx, w, block, batch, saved);
  attention_backward(dx, x, w, block, batch, saved, need_dx);
}

// dx: dLoss/dx_next on entry, dLoss/dx_mid on return. The down projection's output is never needed.
void Transformer::mlp_backward(MatrixView dx, const WeightViews& w, int64_t block,
                               const TokenBatch& batch, const KeptActivations& saved) {
  for_each_tile(batch.tokens, limits_.token_tile, [&](int64_t begin, int64_t end) {
    const int64_t tile = end - begin, row = batch.first_row + begin;
    const MatrixView n = matrix(r_.norm, tile, config_.C), act = matrix(r_.act, tile, config_.F);
    const MatrixView d_act = matrix(r_.d_act, tile, config_.F),
                     d_n = matrix(r_.d_norm, tile, config_.C);
    const MatrixView d_mlp_in = matrix(r_.mlp_in, tile, config_.mlp_in_cols()),
                     x_mid = saved.x_mid.row_range(begin, end);
    const MatrixView mlp_in = saved.mlp_in ? saved.mlp_in.row_range(begin, end) : d_mlp_in;
    const Parts in(*this, w, block, row, kMlpIn), out(*this, w, block, row, kMlpOut);
    norm(n, x_mid, w[Field::NormMlp], w[Field::NormMlpBias]);
    if (!saved.mlp_in) ops_.linear(mlp_in, n, in, Write::Overwrite);
    activate(act, mlp_in);
    ops_.linear_backward(d_act, dx.row_range(begin, end), act, out, Write::Overwrite);
    activate_backward(d_mlp_in, d_act, mlp_in);
    ops_.linear_backward(d_n, d_mlp_in, n, in, Write::Overwrite);
    norm_backward(dx.row_range(begin, end), d_n, x_mid, w[Field::NormMlp], Write::Accumulate);
  });
}

// dx: dLoss/dx_mid on entry, dLoss/dx on return.
void Transformer::attention_backward(MatrixView dx, MatrixView x, const WeightViews& w,
                                     int64_t block, const TokenBatch& batch,
                                     const KeptActivations& saved, bool need_dx) {
  const MatrixView d_o = matrix(r_.d_o, batch.tokens, config_.H * config_.D),
                   d_qkv = matrix(r_.d_qkv, batch.tokens, config_.qkv_cols());
  const MatrixView qk = rotated_qk(saved);
  for_each_tile(batch.tokens, limits_.token_tile, [&](int64_t begin, int64_t end) {
    ops_.linear_backward(d_o.row_range(begin, end), dx.row_range(begin, end),
                         saved.o.row_range(begin, end),
                         Parts(*this, w, block, batch.first_row + begin, kOut), Write::Overwrite);
  });
  ops_.attention_backward(q_of(d_qkv), k_of(d_qkv), v_of(d_qkv), d_o, saved.o, saved.lse, q_of(qk),
                          k_of(qk), v_of(saved.qkv), batch.sequences, attention_shape(block));
  for_each_tile(batch.tokens, limits_.token_tile, [&](int64_t begin, int64_t end) {
    const MatrixView n = matrix(r_.norm, end - begin, config_.C);
    const MatrixView d_n = need_dx ? matrix(r_.d_norm, end - begin, config_.C) : MatrixView();
    const MatrixView d_tile = d_qkv.row_range(begin, end), x_tile = x.row_range(begin, end);
    rope(d_tile.col_range(0, config_.qk_cols()), batch.positions.rows(begin, end), true);
    if (config_.qk_norm) norm_heads_backward(d_tile, saved.qkv.row_range(begin, end), w);
    norm(n, x_tile, w[Field::NormAttn], w[Field::NormAttnBias]);
    ops_.linear_backward(d_n, d_tile, n, Parts(*this, w, block, batch.first_row + begin, kQkv),
                         Write::Overwrite);
    if (need_dx)
      norm_backward(dx.row_range(begin, end), d_n, x_tile, w[Field::NormAttn], Write::Accumulate);
  });
}

}  // namespace lema
