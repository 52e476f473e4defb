// Blocks as lists of ops. train_step and the generator call these; nothing here allocates after
// construction.
#include "model/transformer.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "model/carver.h"
#include "model/rope_table.h"

namespace lema {
namespace {

using Regions = Transformer::Regions;

int64_t carve(const ModelConfig& c, DType X, const TransformerLimits& limits, std::byte* base,
              Regions& r) {
  const int64_t x = element_bytes(X), M = limits.micro_tokens, T = std::min(limits.token_tile, M);
  const int64_t qkv = (c.H + 2 * c.Hkv) * c.D, mlp_in = c.family == Family::Gpt2 ? c.F : 2 * c.F;
  Carver carver(base);
  r.qkv = carver.take(M * qkv * x);
  r.o = carver.take(M * c.H * c.D * x);
  r.x_mid = carver.take(M * c.C * x);
  r.norm = carver.take(T * c.C * x);
  r.mlp_in = carver.take(T * mlp_in * x);
  r.act = carver.take(T * c.F * x);
  if (!limits.training) return carver.used();
  r.lse = carver.take(M * c.H * 4);
  r.d_qkv = carver.take(M * qkv * x);
  r.d_o = carver.take(M * c.H * c.D * x);
  r.d_act = carver.take(T * c.F * x);
  r.d_norm = carver.take(T * c.C * x);
  return carver.used();
}

// Calls visit(begin, end) for the fixed tiles of [0, tokens).
template <typename Visit>
void for_each_tile(int64_t tokens, int64_t tile, Visit visit) {
  for (int64_t begin = 0; begin < tokens; begin += tile)
    visit(begin, std::min(tokens, begin + tile));
}

}  // namespace

// A matrix and its bias.
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
      part.bias = w[source.bias];
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

// The linears of a block, in either family: the fields a family lacks are null and drop out.
constexpr LinearFields kQkv[] = {{Field::Wq, Field::BiasQ},
                                 {Field::Wk, Field::BiasK},
                                 {Field::Wv, Field::BiasV},
                                 {Field::Wqkv, Field::BiasQkv}};
constexpr LinearFields kOut[] = {{Field::Wo, Field::BiasO}};
constexpr LinearFields kMlpIn[] = {
    {Field::WGate, Field::BiasGate}, {Field::WUp, Field::BiasUp}, {Field::WFc, Field::BiasFc}};
constexpr LinearFields kMlpOut[] = {{Field::WDown, Field::BiasDown},
                                    {Field::WProj, Field::BiasProj}};

}  // namespace

DType activation_dtype(const std::string& compute, DType stored) {
  if (compute == "f32") return DType::F32;
  if (compute == "bf16") return DType::BF16;
  check(compute == "auto", "compute {}", compute);
  return stored == DType::BF16 && cpu_prefers_bf16() ? DType::BF16 : DType::F32;
}

int64_t Transformer::workspace_bytes(const ModelConfig& config, DType X,
                                     const TransformerLimits& limits) {
  Regions unused{};
  return carve(config, X, limits, nullptr, unused);
}

int64_t Transformer::rope_table_bytes(const ModelConfig& config, const TransformerLimits& limits) {
  return config.rope.kind == RopeConfig::Kind::None ? 0 : limits.positions * config.D * 4;
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
      adapter_(adapter) {
  attention_ = {config.H, config.Hkv, config.D, 1.0f / std::sqrt(static_cast<float>(config.D))};
  workspace_ = device.allocate(workspace_bytes(config, X, limits), "block workspace");
  carve(config, X, limits, workspace_.data(), r_);
  if (config.rope.kind == RopeConfig::Kind::None) return;
  const std::vector<float> table = lema::rope_table(config.rope, config.D, limits.positions);
  rope_buffer_ = device.allocate(static_cast<int64_t>(table.size()) * 4, "rotary table");
  device.copy_async(Queue::Compute, rope_buffer_.data(), table.data(), rope_buffer_.bytes());
  device.synchronize(Queue::Compute);
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

void Transformer::rope(MatrixView qkv, TensorView positions, bool inverse) {
  if (config_.rope.kind == RopeConfig::Kind::None) return;
  const TensorView table(rope_buffer_.data(), DType::F32, {limits_.positions, config_.D});
  // q and k lie side by side: one call rotates all their heads.
  ops_.rope(qkv.col_range(0, (config_.H + config_.Hkv) * config_.D), positions, table, config_.D,
            inverse);
}

void Transformer::copy(MatrixView to, MatrixView from) {
  device_.copy_async(Queue::Compute, to.data, from.data, from.rows * from.cols * element_bytes(X_));
}

KeptActivations Transformer::scratch_activations(int64_t tokens) const {
  KeptActivations scratch;
  scratch.qkv = matrix(r_.qkv, tokens, qkv_width());
  scratch.o = matrix(r_.o, tokens, config_.H * config_.D);
  if (r_.lse) scratch.lse = {r_.lse, DType::F32, {tokens, config_.H}};
  scratch.x_mid = matrix(r_.x_mid, tokens, config_.C);
  return scratch;
}

void Transformer::embed(MatrixView x, const TokenBatch& batch, TensorView table,
                        TensorView positions) {
  ops_.embedding(x, batch.ids, table, Write::Overwrite);
  if (positions) ops_.embedding(x, batch.positions, positions, Write::Accumulate);
}

void Transformer::attention_forward(const WeightViews& w, MatrixView x, int64_t block,
                                    const TokenBatch& batch, const KeptActivations& saved,
                                    const KvCacheView* cache) {
  const int64_t q_cols = config_.H * config_.D, kv_cols = config_.Hkv * config_.D;
  for_each_tile(batch.tokens, limits_.token_tile, [&](int64_t begin, int64_t end) {
    const MatrixView n = matrix(r_.norm, end - begin, config_.C),
                     qkv = saved.qkv.row_range(begin, end);
    norm(n, x.row_range(begin, end), w[Field::NormAttn], w[Field::NormAttnBias]);
    ops_.linear(qkv, n, Parts(*this, w, block, batch.first_row + begin, kQkv), Write::Overwrite);
    rope(qkv, batch.positions.rows(begin, end), false);
  });
  const MatrixView q = saved.qkv.col_range(0, q_cols);
  MatrixView kv = saved.qkv.col_range(q_cols, qkv_width());
  if (cache) {
    ops_.scatter_rows(cache->rows, kv, cache->token_rows);
    kv = cache->rows;
  }
  ops_.attention(saved.o, saved.lse, q, kv.col_range(0, kv_cols),
                 kv.col_range(kv_cols, 2 * kv_cols), batch.sequences, attention_);
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
        kept ? kept.mlp_in.row_range(begin, end) : matrix(r_.mlp_in, tile, mlp_in_width());
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
    const MatrixView d_mlp_in = matrix(r_.mlp_in, tile, mlp_in_width()),
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
  const int64_t q_cols = config_.H * config_.D, kv_cols = config_.Hkv * config_.D;
  const MatrixView d_o = matrix(r_.d_o, batch.tokens, q_cols),
                   d_qkv = matrix(r_.d_qkv, batch.tokens, qkv_width());
  for_each_tile(batch.tokens, limits_.token_tile, [&](int64_t begin, int64_t end) {
    ops_.linear_backward(d_o.row_range(begin, end), dx.row_range(begin, end),
                         saved.o.row_range(begin, end),
                         Parts(*this, w, block, batch.first_row + begin, kOut), Write::Overwrite);
  });
  const auto q = [&](MatrixView m) { return m.col_range(0, q_cols); };
  const auto k = [&](MatrixView m) { return m.col_range(q_cols, q_cols + kv_cols); };
  const auto v = [&](MatrixView m) { return m.col_range(q_cols + kv_cols, q_cols + 2 * kv_cols); };
  ops_.attention_backward(q(d_qkv), k(d_qkv), v(d_qkv), d_o, saved.o, saved.lse, q(saved.qkv),
                          k(saved.qkv), v(saved.qkv), batch.sequences, attention_);
  for_each_tile(batch.tokens, limits_.token_tile, [&](int64_t begin, int64_t end) {
    const MatrixView n = matrix(r_.norm, end - begin, config_.C);
    const MatrixView d_n = need_dx ? matrix(r_.d_norm, end - begin, config_.C) : MatrixView();
    const MatrixView d_tile = d_qkv.row_range(begin, end), x_tile = x.row_range(begin, end);
    rope(d_tile, batch.positions.rows(begin, end), true);
    norm(n, x_tile, w[Field::NormAttn], w[Field::NormAttnBias]);
    ops_.linear_backward(d_n, d_tile, n, Parts(*this, w, block, batch.first_row + begin, kQkv),
                         Write::Overwrite);
    if (need_dx)
      norm_backward(dx.row_range(begin, end), d_n, x_tile, w[Field::NormAttn], Write::Accumulate);
  });
}

}  // namespace lema
