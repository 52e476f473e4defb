// Transformer: the forward and backward pass of embedding and blocks, as lists of ops, for the
// Llama family and GPT-2. Knows the mathematics and nothing of files, streaming or optimizers:
// weights come in as WeightViews.
//
// Token-wise work runs over tiles of `token_tile` rows; only q, k, v, o, lse and their gradients
// span a micro-batch. What families differ in is a switch of ModelConfig or a field that their
// layout table has or lacks. Ref: arXiv:2302.13971 (Llama), transformers modeling_llama.py,
// modeling_qwen3.py (norms of heads), modeling_phi3.py (fused matrices) and modeling_gpt2.py for
// the order of operations.
#pragma once

#include "device.h"
#include "formats/hf_model.h"
#include "layout/fields.h"
#include "model/adapter_parameters.h"
#include "model/rope_table.h"
#include "ops.h"

namespace lema {

// The activation dtype of `compute` (auto | f32 | bf16 | f16) for weights stored as `stored`: auto
// is BF16 where the file is BF16 and this CPU multiplies BF16 faster than F32, and on a GPU that
// has it. Usage error for f16 on the CPU.
DType activation_dtype(const std::string& compute, DType stored, const Device& device);

// A micro-batch on the device.
struct TokenBatch {
  TensorView ids;         // (N) I32
  TensorView table_rows;  // (N) I32 of the embedding's table; null: the ids
  TensorView positions;   // (N) I32: rows of the rotary table (RopeTable::map) or learned positions
  TensorView sequences;   // (S, 4) I32, see Ops::attention
  int64_t tokens = 0;     // N
  int64_t first_row = 0;  // of the step; numbers dropout masks
};

// What a block may keep from forward for backward; all null: recomputed. Rows are those of the
// micro-batch.
struct KeptActivations {
  MatrixView qkv;     // (N, (H + 2 Hkv) D), q and k after RoPE unless `qk` holds those
  MatrixView qk;      // (N, (H + Hkv) D) q and k normed and rotated; null where no head is normed
  MatrixView o;       // (N, H D) attention output
  TensorView lse;     // (N, H) f32
  MatrixView x_mid;   // (N, C) residual after attention
  MatrixView mlp_in;  // (N, 2F) gate and up, or (N, F) before GELU
  explicit operator bool() const { return qkv.data != nullptr; }
};

// A key-value cache of one block: rows of [k | v], (rows, 2 Hkv D), and the row of each of the
// batch's tokens.
struct KvCacheView {
  MatrixView rows;
  TensorView token_rows;  // (N) I32
};

struct TransformerLimits {
  int64_t micro_tokens = 0;  // rows of a micro-batch
  int64_t token_tile = 2048;
  int64_t positions = 0;    // of the rotary table: the longest row
  int64_t pass_tokens = 0;  // of all micro-batches of a pass
  bool training = true;     // backward workspace too
  int64_t embed_rank = 0;   // of the embedding's adapter; 0: none
};

class Transformer {
 public:
  // adapter may be null. Everything passed by reference outlives the object. X: activation dtype.
  Transformer(Device& device, Ops& ops, const ModelConfig& config, bool linear_transposed, DType X,
              const TransformerLimits& limits, const AdapterParameters* adapter);

  // x (N, C) = embedding rows of the batch (plus learned positions), and what the embedding's
  // adapter adds. Tables may lie in host memory.
  void embed(MatrixView x, const TokenBatch& batch, TensorView table, TensorView positions);
  // Adds to the gradients of the embedding's adapter, where it has one; dx (N, C) = dLoss/dx.
  void embed_backward(MatrixView dx, const TokenBatch& batch);

  // x_next (N, C) from x (N, C). `kept` views are filled when given. With `cache`, keys and values
  // go there and attention reads them there.
  void block_forward(MatrixView x_next, MatrixView x, const WeightViews& w, int64_t block,
                     const TokenBatch& batch, const KeptActivations& kept = {},
                     const KvCacheView* cache = nullptr);

  // dx (N, C) in place: on entry dLoss/dx_next, on return dLoss/dx; with need_dx false only the
  // adapters' gradients are computed and dx is left undefined. Adapter gradients accumulate.
  void block_backward(MatrixView dx, MatrixView x, const WeightViews& w, int64_t block,
                      const TokenBatch& batch, const KeptActivations& kept, bool need_dx);

  // Turns positions into rows of the rotary table.
  RopeTable& rope_table() { return rope_; }
  DType activation_dtype() const { return X_; }
  const ModelConfig& config() const { return config_; }
  const AdapterParameters* adapter() const { return adapter_; }  // may be null
  // Without the rotary table; what an object of these limits allocates, for the plan.
  static int64_t workspace_bytes(const ModelConfig& config, DType X,
                                 const TransformerLimits& limits);

  // RMSNorm or LayerNorm, whichever the family has; also the final norm's. Shapes as Ops has them.
  void norm(MatrixView y, MatrixView x, TensorView weight, TensorView bias);
  void norm_backward(MatrixView dx, MatrixView dy, MatrixView x, TensorView weight, Write write);

  // Places in the workspace: M rows (of a micro-batch) for the first row, a tile for the others.
  struct Regions {
    std::byte *qkv = nullptr, *qk = nullptr, *o = nullptr, *x_mid = nullptr, *lse = nullptr,
              *d_qkv = nullptr, *d_o = nullptr;
    std::byte *norm = nullptr, *mlp_in = nullptr, *act = nullptr, *d_act = nullptr,
              *d_norm = nullptr;
    std::byte *embed_h = nullptr, *d_embed_h = nullptr;  // (T, R) of the embedding's adapter
  };

 private:
  class Parts;
  void attention_forward(const WeightViews& w, MatrixView x, int64_t block, const TokenBatch& batch,
                         const KeptActivations& saved, const KvCacheView* cache);
  void attention_backward(MatrixView dx, MatrixView x, const WeightViews& w, int64_t block,
                          const TokenBatch& batch, const KeptActivations& saved, bool need_dx);
  void mlp_backward(MatrixView dx, const WeightViews& w, int64_t block, const TokenBatch& batch,
                    const KeptActivations& saved);
  void norm_heads(MatrixView y, MatrixView x, const WeightViews& w);
  void norm_heads_backward(MatrixView dx, MatrixView x, const WeightViews& w);
  void rope(MatrixView qk, TensorView positions, bool inverse);
  AttentionShape attention_shape(int64_t block) const;
  // Columns of a row of q, k and v.
  MatrixView q_of(MatrixView qkv) const { return qkv.col_range(0, config_.H * config_.D); }
  MatrixView k_of(MatrixView qkv) const {
    return qkv.col_range(config_.H * config_.D, config_.qk_cols());
  }
  MatrixView v_of(MatrixView qkv) const {
    return qkv.col_range(config_.qk_cols(), config_.qkv_cols());
  }
  // Where attention reads q and k.
  MatrixView rotated_qk(const KeptActivations& saved) const {
    return saved.qk ? saved.qk : saved.qkv.col_range(0, config_.qk_cols());
  }
  void activate(MatrixView y, MatrixView mlp_in);
  void activate_backward(MatrixView d_mlp_in, MatrixView dy, MatrixView mlp_in);
  void copy(MatrixView to, MatrixView from);
  KeptActivations scratch_activations(int64_t tokens) const;
  MatrixView embed_h(const TokenBatch& batch, int64_t begin, int64_t end);
  MatrixView matrix(std::byte* data, int64_t rows, int64_t cols) const {
    return {data, X_, rows, cols};
  }

  Device& device_;
  Ops& ops_;
  const ModelConfig& config_;
  bool transposed_;
  DType X_;
  TransformerLimits limits_;
  const AdapterParameters* adapter_;
  RopeTable rope_;
  Buffer workspace_;
  Regions r_;
};

}  // namespace lema
