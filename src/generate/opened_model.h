// OpenedModel: a model folder and perhaps an adapter, ready for forward passes. Inference (chat,
// match) and RowLosses (eval loss) run on it. On the CPU weights are used where the files are
// mapped; on a GPU they are resident as far as its memory goes, the others are streamed, from disk
// where host memory cannot hold them. The adapter is applied unmerged.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "generate/kv_cache.h"
#include "generate/pass_inputs.h"
#include "model/backend.h"
#include "model/transformer.h"
#include "stream/embedding_rows.h"
#include "stream/layer_stream.h"
#include "stream/plan.h"

namespace lema {

struct OpenOptions {
  fs::path adapter;              // PEFT folder or a checkpoint of lema train; empty: none
  std::string compute = "auto";  // auto | f32 | bf16 | f16, the activation dtype
  int64_t threads = 0;           // 0: all CPUs
  std::string device = "cpu";    // auto | cpu | cuda
  int64_t ram_bytes = 0;  // of host memory for a GPU's weights; 0: what the machine has
  std::function<Backend(const std::string&)> backend = open_backend;  // of `device`
};

// Upper bounds of the passes to come.
struct PassLimits {
  int64_t tokens = 0;     // of one pass
  int64_t positions = 0;  // of one sequence; Usage error when the model has fewer
};

class OpenedModel {
 public:
  // Reads nothing but headers and the adapter. `folder` outlives the model.
  OpenedModel(const ModelFolder& folder, const OpenOptions& options, const PassLimits& limits);

  // To be called once, before the first pass and after the caller's own allocations: on a GPU the
  // weights take what is left of its memory and the host's. DoesNotFit where that is less than two
  // blocks.
  void place_weights();

  // Puts the ids of a pass where forward() looks for them: twice at most. Reads the embedding's
  // rows where host memory does not hold it.
  void put_ids(TokenBatch& batch, PassInputs& inputs, const std::vector<int32_t>& ids);
  // One pass over all blocks: x (N, C) X of the last block's output, valid until the next pass.
  // `cache` may be null; else batch tokens are written to the cache's rows token_rows (N) I32, and
  // attention reads the cache. `head_visits` is how often visit_head will follow.
  MatrixView forward(const TokenBatch& batch, const KvCache* cache, TensorView token_rows,
                     int64_t head_visits);
  // Calls use(weight rows, first vocabulary row) for every chunk of the head.
  void visit_head(const std::function<void(TensorView, int64_t)>& use);
  // logits (N, V) f32 of rows x (N, C) X, after the final norm: one visit of the head.
  void logits(MatrixView logits, MatrixView x);
  int64_t head_rank() const { return adapter_ ? adapter_->head_rank() : 0; }
  int64_t head_chunk_rows() const { return table_.head_chunk_rows; }
  // The final norm; y may alias x.
  void final_norm(MatrixView y, MatrixView x);

  Device& device() { return *device_; }
  Ops& ops() { return *ops_; }
  Transformer& transformer() { return *transformer_; }
  const LayerStream& stream() const { return *stream_; }
  const ModelConfig& config() const { return config_; }
  DType activation_dtype() const { return X_; }
  const PassLimits& limits() const { return limits_; }

 private:
  OpenedModel(const ModelFolder& folder, Backend backend, const OpenOptions& options,
              const PassLimits& limits);
  OpsLimits ops_limits() const;
  bool has_own_embedding() const;  // of the adapter
  Plan plan() const;

  const ModelFolder& folder_;
  const ModelConfig& config_;
  PassLimits limits_;
  int64_t ram_bytes_;
  std::unique_ptr<Device> device_;  // first in, last out: buffers of the others are its
  PieceTable table_;
  DType X_;
  std::unique_ptr<AdapterParameters> adapter_;
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<HostStore> store_;
  std::unique_ptr<LayerStream> stream_;
  std::unique_ptr<EmbeddingRows> embedding_rows_;  // null where the table is at hand, or trained
  std::unique_ptr<Transformer> transformer_;
  Buffer x_;  // input and output of a block, in turn
};

}  // namespace lema
