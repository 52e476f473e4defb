// One row an architecture; Llama, Qwen2 and Qwen3 share a list of names, of which the layout of the
// config wants some.
#include "formats/gguf_architectures.h"

#include <array>

#include "core/error.h"

namespace lema {
namespace {

using Name = GgufTensorName;

constexpr std::array<Name, 3> kLlamaModel = {{
    {"token_embd.weight", "model.embed_tokens.weight"},
    {"output_norm.weight", "model.norm.weight"},
    {"output.weight", "lm_head.weight"},
}};
constexpr std::array<Name, 18> kLlamaBlock = {{
    {"attn_norm.weight", "input_layernorm.weight"},
    {"attn_q_norm.weight", "self_attn.q_norm.weight"},
    {"attn_k_norm.weight", "self_attn.k_norm.weight"},
    {"attn_q.weight", "self_attn.q_proj.weight"},
    {"attn_q.bias", "self_attn.q_proj.bias"},
    {"attn_k.weight", "self_attn.k_proj.weight"},
    {"attn_k.bias", "self_attn.k_proj.bias"},
    {"attn_v.weight", "self_attn.v_proj.weight"},
    {"attn_v.bias", "self_attn.v_proj.bias"},
    {"attn_output.weight", "self_attn.o_proj.weight"},
    {"attn_output.bias", "self_attn.o_proj.bias"},
    {"ffn_norm.weight", "post_attention_layernorm.weight"},
    {"ffn_gate.weight", "mlp.gate_proj.weight"},
    {"ffn_gate.bias", "mlp.gate_proj.bias"},
    {"ffn_up.weight", "mlp.up_proj.weight"},
    {"ffn_up.bias", "mlp.up_proj.bias"},
    {"ffn_down.weight", "mlp.down_proj.weight"},
    {"ffn_down.bias", "mlp.down_proj.bias"},
}};
constexpr std::array<Name, 6> kPhi3Block = {{
    {"attn_norm.weight", "input_layernorm.weight"},
    {"attn_qkv.weight", "self_attn.qkv_proj.weight"},
    {"attn_output.weight", "self_attn.o_proj.weight"},
    {"ffn_norm.weight", "post_attention_layernorm.weight"},
    {"ffn_up.weight", "mlp.gate_up_proj.weight"},
    {"ffn_down.weight", "mlp.down_proj.weight"},
}};
constexpr std::array<Name, 5> kGpt2Model = {{
    {"token_embd.weight", "transformer.wte.weight"},
    {"position_embd.weight", "transformer.wpe.weight"},
    {"output_norm.weight", "transformer.ln_f.weight"},
    {"output_norm.bias", "transformer.ln_f.bias"},
    {"output.weight", "lm_head.weight"},
}};
constexpr std::array<Name, 12> kGpt2Block = {{
    {"attn_norm.weight", "ln_1.weight"},
    {"attn_norm.bias", "ln_1.bias"},
    {"attn_qkv.weight", "attn.c_attn.weight"},
    {"attn_qkv.bias", "attn.c_attn.bias"},
    {"attn_output.weight", "attn.c_proj.weight"},
    {"attn_output.bias", "attn.c_proj.bias"},
    {"ffn_norm.weight", "ln_2.weight"},
    {"ffn_norm.bias", "ln_2.bias"},
    {"ffn_up.weight", "mlp.c_fc.weight"},
    {"ffn_up.bias", "mlp.c_fc.bias"},
    {"ffn_down.weight", "mlp.c_proj.weight"},
    {"ffn_down.bias", "mlp.c_proj.bias"},
}};

constexpr const char* kLayers = "model.layers.";
const GgufArchitecture kArchitectures[] = {
    {.name = "llama",
     .model_type = "llama",
     .model_class = "LlamaForCausalLM",
     .model_tensors = kLlamaModel,
     .block_prefix = kLayers,
     .block_tensors = kLlamaBlock,
     .interleaved_qk = true},
    {"qwen2", "qwen2", "Qwen2ForCausalLM", kLlamaModel, kLayers, kLlamaBlock},
    {"qwen3", "qwen3", "Qwen3ForCausalLM", kLlamaModel, kLayers, kLlamaBlock},
    {"phi3", "phi3", "Phi3ForCausalLM", kLlamaModel, kLayers, kPhi3Block},
    {.name = "gpt2",
     .model_type = "gpt2",
     .model_class = "GPT2LMHeadModel",
     .model_tensors = kGpt2Model,
     .block_prefix = "transformer.h.",
     .block_tensors = kGpt2Block,
     .transposed_blocks = true},
};

}  // namespace

const GgufArchitecture& gguf_architecture(const JsonFields& metadata) {
  constexpr std::string_view key = "general.architecture";
  const std::string name = metadata.text(key, "");
  std::string known;
  for (const GgufArchitecture& architecture : kArchitectures) {
    if (architecture.name == name) return architecture;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", architecture.name);
  }
  fail(ErrorCode::BadInput, "{}: \"{}\" is not supported; supported: {}", metadata.place(key),
       escaped(name), known);
}

}  // namespace lema
