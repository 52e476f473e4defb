// lema convert on GGUF files: the types that no conversion changes, the files beside the weights,
// and tensors that do not fit the metadata. Values and tokenizers are compared with the gguf
// package in tests/parity.
#include "convert/convert.h"
#include "support/gguf_builder.h"
#include "support/scrambled_model.h"
#include "support/temp_folder.h"

using namespace lema;
using namespace lema::test;

namespace {

constexpr uint32_t kF32 = 0, kF16 = 1, kQ8_0 = 8, kBf16 = 30;

struct GgufOptions {
  uint32_t matrix_type = kF16;
  bool head = true;
  std::string without = "";
  uint64_t norm_size = 32;
};

// n values of about 0.5 in `type`.
std::string numbers(uint32_t type, uint64_t n) {
  std::vector<float> values(n);
  for (uint64_t i = 0; i < n; ++i) values[i] = 0.5f + static_cast<float>(i % 7) / 64;
  if (type == kF32) return rounded_bytes(values, DType::F32);
  if (type == kF16) return rounded_bytes(values, DType::F16);
  if (type == kBf16) return rounded_bytes(values, DType::BF16);
  std::string blocks;
  for (uint64_t i = 0; i < n; i += 32) {
    blocks += GgufBuilder::raw(to_f16(0.013f).bits);
    for (uint64_t k = 0; k < 32; ++k) blocks += static_cast<char>(k);
  }
  return blocks;
}

// One block, C 32, two heads, F 32, four tokens; norms F32.
std::string small_gguf(const GgufOptions& o) {
  GgufBuilder b;
  b.string("general.architecture", "llama");
  b.u32("llama.embedding_length", 32)
      .u32("llama.feed_forward_length", 32)
      .u32("llama.block_count", 1);
  b.u32("llama.attention.head_count", 2).u32("llama.context_length", 64);
  b.f32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  b.string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", "smollm");
  b.strings("tokenizer.ggml.tokens", {"a", "b", "ab", "<|end|>"})
      .strings("tokenizer.ggml.merges", {"a b"});
  b.ints("tokenizer.ggml.token_type", {1, 1, 1, 3}).u32("tokenizer.ggml.eos_token_id", 3);
  b.string("tokenizer.chat_template", "{{ messages }}");
  b.string("tokenizer.chat_template.tool_use", "{{ tools }}");
  const auto add = [&](const std::string& name, const std::vector<uint64_t>& dims, uint32_t type) {
    uint64_t n = 1;
    for (const uint64_t d : dims) n *= d;
    if (name != o.without) b.tensor(name, dims, type, numbers(type, n));
  };
  add("token_embd.weight", {32, 4}, o.matrix_type);
  if (o.head) add("output.weight", {32, 4}, o.matrix_type);
  for (const char* name :
       {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"})
    add(fmt::format("blk.0.{}.weight", name), {32, 32}, o.matrix_type);
  for (const char* name : {"output_norm.weight", "blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"})
    add(name, {o.norm_size}, kF32);
  return b.bytes();
}

ConvertResult convert_quietly(const fs::path& source, const fs::path& output,
                              std::optional<DType> dtype = {}) {
  return convert({source, output, dtype}, [](const Progress&) {});
}

std::string text_of(const fs::path& path) { return read_text(path, 1 << 20); }

}  // namespace

TEST_CASE("without --dtype no number of a GGUF file changes") {
  const TempFolder folder("convert_gguf_types");
  struct Case {
    uint32_t type;
    DType matrix;
    const char* config;
  };
  for (const auto& [type, matrix, config] :
       {Case{kF32, DType::F32, "float32"}, Case{kF16, DType::F16, "float16"},
        Case{kBf16, DType::BF16, "bfloat16"}, Case{kQ8_0, DType::F32, "float32"}}) {
    CAPTURE(type);
    const fs::path source = folder.file("m.gguf", small_gguf({.matrix_type = type}));
    const fs::path output = folder.path() / fmt::format("out{}", type);
    CHECK(convert_quietly(source, output).tensors == 12);
    const ModelFolder converted(output);
    CHECK(converted.find("lm_head.weight")->entry.dtype == matrix);
    CHECK(converted.find("model.norm.weight")->entry.dtype == DType::F32);
    CHECK(*converted.config_json().find("torch_dtype") == Value(config));
    if (type != kQ8_0)
      CHECK(tensors_of(converted).at("model.embed_tokens.weight") == numbers(type, 32 * 4));
    else
      CHECK(floats_of(tensors_of(converted).at("model.embed_tokens.weight"), DType::F32)[33] ==
            to_f32(to_f16(0.013f)));
    CHECK(text_of(output / "chat_template.jinja") == "{{ messages }}");
    CHECK(text_of(output / "additional_chat_templates" / "tool_use.jinja") == "{{ tools }}");
    for (const char* name : {"generation_config.json", "tokenizer.json", "tokenizer_config.json"})
      CHECK(fs::exists(output / name));
  }
  convert_quietly(folder.path() / "m.gguf", folder.path() / "bf16", DType::BF16);
  const ModelFolder rounded(folder.path() / "bf16");
  for (const auto& [name, tensor] : rounded.tensors()) CHECK(tensor.entry.dtype == DType::BF16);
  CHECK(*rounded.config_json().find("torch_dtype") == Value("bfloat16"));
}

TEST_CASE("a GGUF file without a head is tied") {
  const TempFolder folder("convert_gguf_tied");
  const fs::path source = folder.file("m.gguf", small_gguf({.head = false}));
  convert_quietly(source, folder.path() / "out");
  const ModelFolder converted(folder.path() / "out");
  CHECK(converted.config().tied_head);
  CHECK(converted.find("lm_head.weight") == nullptr);
  const Metadata& metadata = converted.files()[0].metadata();
  CHECK(std::find(metadata.begin(), metadata.end(),
                  std::pair<std::string, std::string>("lema_source", "m.gguf")) != metadata.end());
}

TEST_CASE("tensors that do not fit the metadata are refused") {
  const TempFolder folder("convert_gguf_refused");
  const auto refused = [&](const GgufOptions& options, const char* part) {
    const fs::path source = folder.file("m.gguf", small_gguf(options));
    CHECK_BAD_INPUT(convert_quietly(source, folder.path() / "out"), part);
    CHECK(!fs::exists(folder.path() / "out"));
  };
  refused({.without = "blk.0.ffn_up.weight"},
          "no tensor that becomes model.layers.0.mlp.up_proj.weight");
  refused({.norm_size = 16}, "is [16]; the metadata asks for [32]");
  CHECK_BAD_INPUT(convert_quietly(folder.file("text.gguf", "not a model"), folder.path() / "out"),
                  "text.gguf");
}
