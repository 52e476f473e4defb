// The table of the Llama family (Llama, Mistral, Qwen2, Qwen3, Phi-3): three pieces a block
// (attention | gate+up | down), with the biases, head norms and fused matrices that the config's
// switches name.
#include "layout/fields.h"

namespace lema {
namespace {

// The fields of one block, by their names below "model.layers.N.".
class Block {
 public:
  Block(const ModelConfig& config, int64_t index)
      : c_(config), base_(fmt::format("model.layers.{}.", index)) {}

  PieceSpec attention() const {
    const int64_t q = c_.H * c_.D, kv = c_.Hkv * c_.D;
    PieceSpec piece{"attention", {norm(Field::NormAttn, "input_layernorm", c_.C)}};
    auto& fields = piece.fields;
    if (c_.qk_norm) {
      fields.push_back(norm(Field::NormQ, "self_attn.q_norm", c_.D));
      fields.push_back(norm(Field::NormK, "self_attn.k_norm", c_.D));
    }
    if (c_.qkv_bias) {
      fields.push_back(bias(Field::BiasQ, "self_attn.q_proj", q));
      fields.push_back(bias(Field::BiasK, "self_attn.k_proj", kv));
      fields.push_back(bias(Field::BiasV, "self_attn.v_proj", kv));
    }
    if (c_.o_bias) fields.push_back(bias(Field::BiasO, "self_attn.o_proj", c_.C));
    if (c_.is_fused) {
      fields.push_back(linear(Field::Wqkv, "self_attn.qkv_proj", q + 2 * kv, c_.C));
    } else {
      fields.push_back(linear(Field::Wq, "self_attn.q_proj", q, c_.C));
      fields.push_back(linear(Field::Wk, "self_attn.k_proj", kv, c_.C));
      fields.push_back(linear(Field::Wv, "self_attn.v_proj", kv, c_.C));
    }
    fields.push_back(linear(Field::Wo, "self_attn.o_proj", c_.C, q));
    return piece;
  }

  PieceSpec gate_up() const {
    PieceSpec piece{"gate_up", {norm(Field::NormMlp, "post_attention_layernorm", c_.C)}};
    auto& fields = piece.fields;
    if (c_.is_fused) {
      fields.push_back(linear(Field::WGateUp, "mlp.gate_up_proj", 2 * c_.F, c_.C));
      return piece;
    }
    if (c_.mlp_bias) {
      fields.push_back(bias(Field::BiasGate, "mlp.gate_proj", c_.F));
      fields.push_back(bias(Field::BiasUp, "mlp.up_proj", c_.F));
    }
    fields.push_back(linear(Field::WGate, "mlp.gate_proj", c_.F, c_.C));
    fields.push_back(linear(Field::WUp, "mlp.up_proj", c_.F, c_.C));
    return piece;
  }

  PieceSpec down() const {
    PieceSpec piece{"down", {}};
    if (c_.mlp_bias) piece.fields.push_back(bias(Field::BiasDown, "mlp.down_proj", c_.C));
    piece.fields.push_back(linear(Field::WDown, "mlp.down_proj", c_.C, c_.F));
    return piece;
  }

 private:
  FieldSpec norm(Field field, const char* module, int64_t size) const {
    return {field, base_ + module + ".weight", "", {size}};
  }
  FieldSpec bias(Field field, const char* module, int64_t out) const {
    return {field, base_ + module + ".bias", "", {out}};
  }
  FieldSpec linear(Field field, const char* module, int64_t out, int64_t in) const {
    return {field, base_ + module + ".weight", base_ + module, {out, in}};
  }

  const ModelConfig& c_;
  std::string base_;
};

}  // namespace

ModelSpec llama_spec(const ModelConfig& c) {
  ModelSpec spec;
  spec.embed = {Field::Embed, "model.embed_tokens.weight", "model.embed_tokens", {c.V, c.C}};
  for (int64_t l = 0; l < c.L; ++l) {
    const Block block(c, l);
    spec.blocks.push_back({block.attention(), block.gate_up(), block.down()});
  }
  spec.final_norm = {{Field::NormFinal, "model.norm.weight", "", {c.C}}};
  spec.head = {
      Field::Head, c.tied_head ? spec.embed.tensor : "lm_head.weight", "lm_head", {c.V, c.C}};
  return spec;
}

}  // namespace lema
