// The names of weights inside lema, and what one weight of a model looks like in its file.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"
#include "formats/hf_model.h"

namespace lema {

// One weight of a block (or of the ends of the model). Fused names exist where a family stores them
// fused.
enum class Field : uint8_t {
  NormAttn,
  NormAttnBias,
  NormQ,
  NormK,
  Wq,
  Wk,
  Wv,
  Wqkv,
  Wo,
  BiasQ,
  BiasK,
  BiasV,
  BiasQkv,
  BiasO,
  NormMlp,
  NormMlpBias,
  WGate,
  WUp,
  WGateUp,
  WDown,
  BiasGate,
  BiasUp,
  BiasDown,
  WFc,
  WProj,
  BiasFc,
  BiasProj,
  Embed,
  Positions,
  NormFinal,
  NormFinalBias,
  Head,
  kCount,
};
inline constexpr size_t kFieldCount = static_cast<size_t>(Field::kCount);
std::string_view name(Field field);

// Weights as views, by Field; null where there is none.
class WeightViews {
 public:
  const TensorView& operator[](Field field) const { return views_[static_cast<size_t>(field)]; }
  TensorView& operator[](Field field) { return views_[static_cast<size_t>(field)]; }

 private:
  std::array<TensorView, kFieldCount> views_;
};

// A weight as the family's table declares it.
struct FieldSpec {
  Field field;
  std::string tensor;  // in the file: "model.layers.3.self_attn.q_proj.weight"
  std::string module;  // PEFT's path of the linear or embedding that owns it, "" where it is none
  Shape shape;
};

// Weights that are read, copied and used together; matrices with the same input are neighbours,
// norms and biases lead.
struct PieceSpec {
  std::string name;  // "attention", "gate_up", "down", "mlp_in", "mlp_out"
  std::vector<FieldSpec> fields;
};

// Every weight of a model in execution order.
struct ModelSpec {
  FieldSpec embed;
  std::vector<FieldSpec> positions;            // GPT-2's learned positions, else empty
  std::vector<std::vector<PieceSpec>> blocks;  // [block][piece]
  std::vector<FieldSpec> final_norm;
  FieldSpec head;                  // the embedding's tensor when tied
  bool linear_transposed = false;  // linears are stored (in, out): GPT-2's Conv1D

  // Of the files, whatever config.json says.
  bool has_tied_head() const { return head.tensor == embed.tensor; }
};

// The table of config.family. `has` says whether the folder holds a tensor: GPT-2 files come with
// and without the "transformer." prefix.
template <typename Has>
ModelSpec model_spec(const ModelConfig& config, Has has);

ModelSpec llama_spec(const ModelConfig& config);
// prefix: "" or "transformer.".
ModelSpec gpt2_spec(const ModelConfig& config, const std::string& prefix);

template <typename Has>
ModelSpec model_spec(const ModelConfig& config, Has has) {
  if (config.family == Family::Gpt2)
    return gpt2_spec(config, has("wte.weight") ? "" : "transformer.");
  return llama_spec(config);
}

// The larger dimension of the largest linear of any block.
int64_t widest_linear(const ModelSpec& spec);

// True for tensors that published files carry and no computation reads: mask buffers, rotary
// caches, a tied head's tensor (make_piece_table has found it to be a copy of the embedding).
bool is_ignorable(const std::string& tensor, const ModelConfig& config);

}  // namespace lema
