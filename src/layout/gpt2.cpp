// GPT-2's table: three pieces a block (attention | fc | proj), linears stored (in, out), biases
// everywhere.
#include "layout/fields.h"

namespace lema {

ModelSpec gpt2_spec(const ModelConfig& c, const std::string& prefix) {
  ModelSpec spec;
  spec.linear_transposed = true;
  spec.embed = {Field::Embed, prefix + "wte.weight", "transformer.wte", {c.V, c.C}};
  spec.positions = {{Field::Positions, prefix + "wpe.weight", "", {c.max_positions, c.C}}};
  for (int64_t l = 0; l < c.L; ++l) {
    const std::string path = fmt::format("h.{}.", l);
    const auto linear = [&](Field field, const char* module, int64_t out, int64_t in) {
      // PEFT's path always carries the prefix: the adapter wraps GPT2LMHeadModel.
      return FieldSpec{
          field, prefix + path + module + ".weight", "transformer." + path + module, {in, out}};
    };
    const auto vector = [&](Field field, const char* tensor, int64_t size) {
      return FieldSpec{field, prefix + path + tensor, "", {size}};
    };
    spec.blocks.push_back(
        {{"attention",
          {vector(Field::NormAttn, "ln_1.weight", c.C),
           vector(Field::NormAttnBias, "ln_1.bias", c.C),
           vector(Field::BiasQkv, "attn.c_attn.bias", 3 * c.C),
           vector(Field::BiasO, "attn.c_proj.bias", c.C),
           linear(Field::Wqkv, "attn.c_attn", 3 * c.C, c.C),
           linear(Field::Wo, "attn.c_proj", c.C, c.C)}},
         {"fc",
          {vector(Field::NormMlp, "ln_2.weight", c.C), vector(Field::NormMlpBias, "ln_2.bias", c.C),
           vector(Field::BiasFc, "mlp.c_fc.bias", c.F), linear(Field::WFc, "mlp.c_fc", c.F, c.C)}},
         {"proj",
          {vector(Field::BiasProj, "mlp.c_proj.bias", c.C),
           linear(Field::WProj, "mlp.c_proj", c.C, c.F)}}});
  }
  spec.final_norm = {{Field::NormFinal, prefix + "ln_f.weight", "", {c.C}},
                     {Field::NormFinalBias, prefix + "ln_f.bias", "", {c.C}}};
  spec.head = {
      Field::Head, c.tied_head ? spec.embed.tensor : "lm_head.weight", "lm_head", {c.V, c.C}};
  return spec;
}

}  // namespace lema
