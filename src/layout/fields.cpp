// Field names and the tensors that carry no weight.
#include "layout/fields.h"

#include <algorithm>

namespace lema {

std::string_view name(Field field) {
  static constexpr std::array<std::string_view, kFieldCount> kNames = {"norm_attn",
                                                                       "norm_attn_bias",
                                                                       "norm_q",
                                                                       "norm_k",
                                                                       "wq",
                                                                       "wk",
                                                                       "wv",
                                                                       "wqkv",
                                                                       "wo",
                                                                       "bias_q",
                                                                       "bias_k",
                                                                       "bias_v",
                                                                       "bias_qkv",
                                                                       "bias_o",
                                                                       "norm_mlp",
                                                                       "norm_mlp_bias",
                                                                       "w_gate",
                                                                       "w_up",
                                                                       "w_gate_up",
                                                                       "w_down",
                                                                       "bias_gate",
                                                                       "bias_up",
                                                                       "bias_down",
                                                                       "w_fc",
                                                                       "w_proj",
                                                                       "bias_fc",
                                                                       "bias_proj",
                                                                       "embed",
                                                                       "positions",
                                                                       "norm_final",
                                                                       "norm_final_bias",
                                                                       "head"};
  return kNames[static_cast<size_t>(field)];
}

int64_t widest_linear(const ModelSpec& spec) {
  int64_t widest = 0;
  for (const auto& block : spec.blocks)
    for (const PieceSpec& piece : block)
      for (const FieldSpec& field : piece.fields)
        for (int i = 0; !field.module.empty() && i < field.shape.rank(); ++i)
          widest = std::max(widest, field.shape[i]);
  return widest;
}

bool is_ignorable(const std::string& tensor, const ModelConfig& config) {
  const std::string_view view = tensor;
  if (config.family == Family::Gpt2 &&
      (view.ends_with(".attn.bias") || view.ends_with(".attn.masked_bias")))
    return true;
  if (view.ends_with(".rotary_emb.inv_freq")) return true;
  return config.tied_head && view == "lm_head.weight";
}

}  // namespace lema
