// The Llama family's table: three pieces a block (attention | gate+up | down).
#include "layout/fields.h"

namespace lema {

ModelSpec llama_spec(const ModelConfig& c) {
  ModelSpec spec;
  spec.embed = {Field::Embed, "model.embed_tokens.weight", "model.embed_tokens", {c.V, c.C}};
  for (int64_t l = 0; l < c.L; ++l) {
    const std::string base = fmt::format("model.layers.{}.", l);
    const auto linear = [&](Field field, const char* module, int64_t out, int64_t in) {
      return FieldSpec{field, base + module + ".weight", base + module, {out, in}};
    };
    const auto bias = [&](Field field, const char* module, int64_t out) {
      return FieldSpec{field, base + module + ".bias", "", {out}};
    };
    PieceSpec attention{"attention", {}}, gate_up{"gate_up", {}}, down{"down", {}};
    attention.fields.push_back({Field::NormAttn, base + "input_layernorm.weight", "", {c.C}});
    if (c.attention_bias) {
      attention.fields.push_back(bias(Field::BiasQ, "self_attn.q_proj", c.H * c.D));
      attention.fields.push_back(bias(Field::BiasK, "self_attn.k_proj", c.Hkv * c.D));
      attention.fields.push_back(bias(Field::BiasV, "self_attn.v_proj", c.Hkv * c.D));
      attention.fields.push_back(bias(Field::BiasO, "self_attn.o_proj", c.C));
    }
    attention.fields.push_back(linear(Field::Wq, "self_attn.q_proj", c.H * c.D, c.C));
    attention.fields.push_back(linear(Field::Wk, "self_attn.k_proj", c.Hkv * c.D, c.C));
    attention.fields.push_back(linear(Field::Wv, "self_attn.v_proj", c.Hkv * c.D, c.C));
    attention.fields.push_back(linear(Field::Wo, "self_attn.o_proj", c.C, c.H * c.D));
    gate_up.fields.push_back({Field::NormMlp, base + "post_attention_layernorm.weight", "", {c.C}});
    if (c.mlp_bias) {
      gate_up.fields.push_back(bias(Field::BiasGate, "mlp.gate_proj", c.F));
      gate_up.fields.push_back(bias(Field::BiasUp, "mlp.up_proj", c.F));
      down.fields.push_back(bias(Field::BiasDown, "mlp.down_proj", c.C));
    }
    gate_up.fields.push_back(linear(Field::WGate, "mlp.gate_proj", c.F, c.C));
    gate_up.fields.push_back(linear(Field::WUp, "mlp.up_proj", c.F, c.C));
    down.fields.push_back(linear(Field::WDown, "mlp.down_proj", c.C, c.F));
    spec.blocks.push_back({std::move(attention), std::move(gate_up), std::move(down)});
  }
  spec.final_norm = {{Field::NormFinal, "model.norm.weight", "", {c.C}}};
  spec.head = {
      Field::Head, c.tied_head ? spec.embed.tensor : "lm_head.weight", "lm_head", {c.V, c.C}};
  return spec;
}

}  // namespace lema
