// A GGUF file as a Hugging Face model: config, names, row order, RoPE settings, tokenizer, and what
// is refused.
#include <cmath>

#include "formats/gguf_import.h"
#include "formats/hf_model.h"
#include "formats/json.h"
#include "support/gguf_builder.h"
#include "support/temp_folder.h"

using namespace lema;
using B = GgufBuilder;

namespace {

struct Options {
  std::string architecture = "llama", pre = "smollm", tokenizer = "gpt2";
  std::string without = "";  // a key or tensor that is left out
  bool head = false, biases = false;
  uint64_t D = 4;
  std::vector<float> rope_factors = {};
  std::vector<std::string> tokens = {"a", "b", "ab", "<|end|>", "<tool>"};
  std::vector<std::string> merges = {"a b"};
  std::vector<int32_t> types = {1, 1, 1, 3, 4};
};

// Values start, start + 1, ...
std::vector<float> ramp(uint64_t count, float start = 0) {
  std::vector<float> values(count);
  for (uint64_t i = 0; i < count; ++i) values[i] = start + static_cast<float>(i);
  return values;
}

// One block, C 6, two query heads and one key-value head of size D, F 3, 5 tokens.
B tiny(const Options& o) {
  B b;
  const auto u32 = [&](std::string_view key, uint32_t x) {
    if (key != o.without) b.u32(key, x);
  };
  b.string("general.architecture", o.architecture);
  u32("llama.embedding_length", 6), u32("llama.feed_forward_length", 3),
      u32("llama.block_count", 1);
  u32("llama.attention.head_count", 2), u32("llama.attention.head_count_kv", 1),
      u32("llama.context_length", 64);
  u32("llama.attention.key_length", static_cast<uint32_t>(o.D));
  b.f32("llama.attention.layer_norm_rms_epsilon", 1e-5f).f32("llama.rope.freq_base", 500000);
  b.string("tokenizer.ggml.model", o.tokenizer).string("tokenizer.ggml.pre", o.pre);
  b.strings("tokenizer.ggml.tokens", o.tokens);
  if (o.tokenizer != "llama") b.strings("tokenizer.ggml.merges", o.merges);
  b.ints("tokenizer.ggml.token_type", o.types);
  u32("tokenizer.ggml.bos_token_id", 0), u32("tokenizer.ggml.eos_token_id", 3),
      u32("tokenizer.ggml.eot_token_id", 4);
  b.string("tokenizer.chat_template", "{{ messages }}");
  const auto floats = [&](std::string_view name, std::vector<uint64_t> dims, float start = 0) {
    uint64_t count = 1;
    for (uint64_t d : dims) count *= d;
    if (name != o.without) b.floats(name, dims, ramp(count, start));
  };
  floats("token_embd.weight", {6, 5}), floats("output_norm.weight", {6});
  if (o.head) floats("output.weight", {6, 5});
  floats("blk.0.attn_norm.weight", {6}), floats("blk.0.attn_q.weight", {6, 2 * o.D});
  floats("blk.0.attn_k.weight", {6, o.D}), floats("blk.0.attn_v.weight", {6, o.D});
  floats("blk.0.attn_output.weight", {2 * o.D, 6}), floats("blk.0.ffn_norm.weight", {6});
  floats("blk.0.ffn_gate.weight", {6, 3}), floats("blk.0.ffn_up.weight", {6, 3}),
      floats("blk.0.ffn_down.weight", {3, 6});
  if (o.biases) floats("blk.0.attn_q.bias", {2 * o.D}), floats("blk.0.attn_k.bias", {o.D});
  if (!o.rope_factors.empty())
    b.floats("rope_freqs.weight", {o.rope_factors.size()}, o.rope_factors);
  return b;
}

GgufFile open(const TempFolder& folder, const B& builder) {
  return GgufFile(folder.file("m.gguf", builder.bytes()));
}

const GgufTensorMap& tensor(const GgufModel& model, std::string_view name) {
  for (const GgufTensorMap& t : model.tensors)
    if (t.name == name) return t;
  FAIL("no tensor " << name);
  return model.tensors.front();
}

std::vector<float> rows(const GgufFile& file, const GgufTensorMap& t, int64_t begin, int64_t end) {
  std::vector<float> out(static_cast<size_t>((end - begin) * t.shape.elements() / t.shape[0]));
  read_tensor_rows(file, t, begin, end, out.data());
  return out;
}

// Llama-3's divisors as a converter computes them, in f32.
std::vector<float> llama3_factors(int D, float theta, float factor, float low, float high,
                                  float original) {
  std::vector<float> factors;
  for (int i = 0; i < D; i += 2) {
    const float wave =
        2 * 3.14159265358979f * std::pow(theta, static_cast<float>(i) / static_cast<float>(D));
    const float smooth = (original / wave - low) / (high - low);
    factors.push_back(wave < original / high  ? 1
                      : wave > original / low ? factor
                                              : 1 / ((1 - smooth) / factor + smooth));
  }
  return factors;
}

}  // namespace

TEST_CASE("config.json parses to the numbers of the file") {
  const TempFolder folder("gguf_config");
  const GgufFile file = open(folder, tiny({}));
  const GgufModel model = import_gguf(file);
  const ModelConfig config = parse_model_config(model.config_json, "config.json");
  CHECK((config.C == 6 && config.F == 3 && config.L == 1 && config.H == 2 && config.Hkv == 1 &&
         config.D == 4));
  CHECK((config.V == 5 && config.max_positions == 64 && config.norm_eps == 1e-5));
  CHECK((config.rope.kind == RopeConfig::Kind::Default && config.rope.theta == 500000));
  CHECK((config.tied_head && !config.qkv_bias && !config.o_bias && !config.mlp_bias));
  CHECK(*model.config_json.find("bos_token_id") == Value(0));
  CHECK(config.eos_ids == std::vector<int64_t>{3});
  CHECK(*model.generation_config.find("eos_token_id") == Value(Value::Array{3, 4}));
  CHECK(*model.config_json.find("torch_dtype") == Value("float32"));
  CHECK(model.chat_template == "{{ messages }}");
  const GgufFile untied = open(folder, tiny({.head = true, .biases = true}));
  const ModelConfig other = parse_model_config(import_gguf(untied).config_json, "config.json");
  CHECK((!other.tied_head && other.qkv_bias && other.o_bias));
}

TEST_CASE("the dtype is that of the matrices") {
  const TempFolder folder("gguf_dtype");
  const auto dtype = [&](uint32_t type, const std::string& row) {
    B builder = tiny({.without = "blk.0.ffn_gate.weight"});
    return import_gguf(open(folder, builder.tensor("blk.0.ffn_gate.weight", {1}, type, row))).dtype;
  };
  CHECK(dtype(0, B::raw(1.0f)) == DType::F32);
  CHECK(dtype(1, B::raw(uint16_t{0})) == DType::F16);
  CHECK(dtype(30, B::raw(uint16_t{0})) == DType::BF16);
}

TEST_CASE("q and k rows return to rotate-half order, weights and biases") {
  const TempFolder folder("gguf_rows");
  const GgufFile file = open(folder, tiny({.biases = true}));
  const GgufModel model = import_gguf(file);
  const GgufTensorMap& q = tensor(model, "model.layers.0.self_attn.q_proj.weight");
  CHECK(q.interleaved_heads == 2);
  const std::vector<float> all = rows(file, q, 0, 8);
  // Row r of the file starts with 6 r. Heads of 4: file order (0, half) (0, other) (1, half) (1,
  // other).
  const std::vector<float> first = {0, 12, 6, 18, 24, 36, 30, 42};
  for (size_t r = 0; r < 8; ++r) {
    CHECK(all[6 * r] == first[r]);
    CHECK(all[6 * r + 5] == first[r] + 5);
  }
  // Any range gives the same rows.
  for (int64_t begin = 0; begin <= 8; ++begin)
    for (int64_t end = begin; end <= 8; ++end)
      CHECK(rows(file, q, begin, end) ==
            std::vector<float>(all.begin() + 6 * begin, all.begin() + 6 * end));
  const GgufTensorMap& bias = tensor(model, "model.layers.0.self_attn.k_proj.bias");
  CHECK(rows(file, bias, 0, 4) == std::vector<float>{0, 2, 1, 3});
  CHECK(rows(file, tensor(model, "model.layers.0.self_attn.v_proj.weight"), 1, 2) == ramp(6, 6));
}

TEST_CASE("Llama-3 RoPE settings come back from their factors") {
  const TempFolder folder("gguf_rope");
  const auto scaling = [&](const std::vector<float>& factors) {
    return parse_model_config(
               import_gguf(open(folder, tiny({.D = 2 * factors.size(), .rope_factors = factors})))
                   .config_json,
               "config.json")
        .rope;
  };
  const RopeConfig published = scaling(llama3_factors(64, 500000, 32, 1, 4, 8192));
  CHECK((published.kind == RopeConfig::Kind::Llama3 && published.factor == 32 &&
         published.low_freq_factor == 1));
  CHECK((published.high_freq_factor == 4 && published.original_max_positions == 8192));
  const RopeConfig fitted = scaling(llama3_factors(128, 500000, 8, 1, 6, 4096));
  CHECK((fitted.factor == 8 && fitted.high_freq_factor == 6 &&
         fitted.original_max_positions == 4096));
  CHECK(scaling(std::vector<float>(32, 1.0f)).kind == RopeConfig::Kind::Default);
  std::vector<float> wrong = llama3_factors(64, 500000, 32, 1, 4, 8192);
  wrong[3] = 1.5f;
  CHECK_BAD_INPUT(scaling(wrong),
                  "tensor rope_freqs.weight: these factors are not those of llama3");
  wrong[3] = std::nanf("");
  CHECK_BAD_INPUT(scaling(wrong), "not those of llama3");
}

TEST_CASE("windows and RoPE scaling become config keys") {
  const TempFolder folder("gguf_scaling");
  const auto config = [&](const B& b) {
    return parse_model_config(import_gguf(open(folder, b)).config_json, "config.json");
  };
  const ModelConfig mistral = config(tiny({}).u32("llama.attention.sliding_window", 32));
  CHECK((mistral.model_type == "mistral" && mistral.windows == std::vector<int64_t>{32}));
  CHECK(config(tiny({}).u32("llama.attention.sliding_window", 64)).model_type == "llama");
  const RopeConfig linear = config(tiny({}).f32("llama.rope.scaling.factor", 4)).rope;
  CHECK((linear.kind == RopeConfig::Kind::Linear && linear.factor == 4));
  CHECK(config(tiny({}).f32("llama.rope.scale_linear", 2)).rope.factor == 2);
  const RopeConfig yarn = config(tiny({})
                                     .string("llama.rope.scaling.type", "yarn")
                                     .f32("llama.rope.scaling.factor", 4)
                                     .u32("llama.rope.scaling.original_context_length", 16)
                                     .f32("llama.rope.scaling.yarn_beta_fast", 24))
                              .rope;
  CHECK((yarn.kind == RopeConfig::Kind::Yarn && yarn.factor == 4 && yarn.beta_fast == 24 &&
         yarn.beta_slow == 1 && yarn.original_max_positions == 16));
  const auto longrope = [&](float attention) {
    return config(tiny({})
                      .floats("rope_factors_short.weight", {2}, {1, 2})
                      .floats("rope_factors_long.weight", {2}, {3, 4})
                      .f32("llama.rope.scaling.attn_factor", attention)
                      .u32("llama.rope.scaling.original_context_length", 16))
        .rope;
  };
  const double usual = std::sqrt(1 + std::log(4.0) / std::log(16.0));
  const RopeConfig found = longrope(static_cast<float>(usual));
  CHECK((found.kind == RopeConfig::Kind::LongRope && found.attention_factor == usual));
  CHECK((found.short_factors == std::vector<float>{1, 2} &&
         found.long_factors == std::vector<float>{3, 4}));
  CHECK(longrope(1.5f).attention_factor == 1.5);
}

TEST_CASE("GPT-2's matrices are read as their transposes, any rows, blocks too") {
  const TempFolder folder("gguf_gpt2");
  B b;
  b.string("general.architecture", "gpt2").u32("gpt2.embedding_length", 64);
  b.u32("gpt2.feed_forward_length", 64).u32("gpt2.block_count", 1).u32("gpt2.context_length", 16);
  b.u32("gpt2.attention.head_count", 2).f32("gpt2.attention.layer_norm_epsilon", 1e-5f);
  b.string("tokenizer.ggml.model", "gpt2").strings("tokenizer.ggml.tokens", {"a", "b", "ab"});
  b.strings("tokenizer.ggml.merges", {"a b"});
  b.floats("token_embd.weight", {64, 3}, ramp(192));
  std::string blocks;  // 192 rows of 64 values, two blocks each
  for (int block = 0; block < 384; ++block) {
    blocks += B::raw(uint16_t{0x3C00});  // scale 1
    for (int i = 0; i < 32; ++i) blocks += static_cast<char>((7 * block + 3 * i) % 120 - 60);
  }
  b.tensor("blk.0.attn_qkv.weight", {64, 192}, 8, blocks);
  const GgufFile file = open(folder, b);
  const GgufModel model = import_gguf(file);  // without pre: a gpt2 file's is GPT-2's
  const GgufTensorMap& qkv = tensor(model, "transformer.h.0.attn.c_attn.weight");
  REQUIRE(qkv.shape == Shape{64, 192});
  std::vector<float> stored(64 * 192);
  file.read(*qkv.source, 0, std::ssize(stored), stored.data());
  for (const auto& [begin, end] : {std::pair{0, 64}, {0, 1}, {31, 33}, {33, 64}, {5, 5}}) {
    const std::vector<float> found = rows(file, qkv, begin, end);
    for (size_t i = 0; i < found.size(); ++i)
      REQUIRE(found[i] == stored[(i % 192) * 64 + static_cast<size_t>(begin) + i / 192]);
  }
  CHECK(*model.config_json.find("model_type") == Value("gpt2"));
  CHECK(tensor(model, "transformer.wte.weight").shape == Shape{3, 64});
}

TEST_CASE("tokenizer.json is rebuilt") {
  const TempFolder folder("gguf_tokenizer");
  const GgufModel model = import_gguf(open(folder, tiny({})));
  const Value& json = model.tokenizer_json;
  CHECK(dump_json(*json.find("model")->find("vocab")) ==
        R"({"a": 0, "b": 1, "ab": 2, "<|end|>": 3, "<tool>": 4})");
  CHECK(dump_json(*json.find("model")->find("merges")) == R"(["a b"])");
  const auto& added = json.find("added_tokens")->as_array();
  REQUIRE(added.size() == 3);
  CHECK(*added[0].find("content") == Value("a"));  // BOS, whatever its type
  CHECK(dump_json(added[1]) ==
        R"({"id": 3, "content": "<|end|>", "single_word": false, "lstrip": false, )"
        R"("rstrip": false, "normalized": false, "special": true})");
  CHECK(*added[2].find("special") == Value(false));
  CHECK(
      dump_json(*json.find("pre_tokenizer")) ==
      R"({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, )"
      R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, )"
      R"("use_regex": true}]})");
  CHECK(json.find("post_processor")->is_null());
  CHECK(*model.tokenizer_config.find("eos_token") == Value("<|end|>"));

  const GgufModel llama3 = import_gguf(open(folder, tiny({.pre = "llama-bpe"})));
  CHECK(*llama3.tokenizer_json.find("model")->find("ignore_merges") == Value(true));
  CHECK(contains(
      dump_json(*llama3.tokenizer_json.find("post_processor")),
      R"("single": [{"SpecialToken": {"id": "a", "type_id": 0}}, )"
      R"({"Sequence": {"id": "A", "type_id": 0}}])"));
  B builder = tiny({.pre = "llama-bpe"});
  builder.boolean("tokenizer.ggml.add_bos_token", false)
      .boolean("tokenizer.ggml.add_eos_token", true);
  const std::string eos =
      dump_json(*import_gguf(open(folder, builder)).tokenizer_json.find("post_processor"));
  CHECK(contains(
      eos,
      R"("single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<|end|>")"));
  CHECK(contains(eos, R"("<|end|>": {"id": "<|end|>", "ids": [3], "tokens": ["<|end|>"]})"));
  CHECK(*import_gguf(open(folder, tiny({.pre = "qwen2"})))
             .tokenizer_json.find("normalizer")
             ->find("type") == Value("NFC"));
}

TEST_CASE("a SentencePiece vocabulary gets the merges that its scores imply") {
  const TempFolder folder("gguf_sentencepiece");
  const Options options = {.tokenizer = "llama",
                           .tokens = {"<unk>", "a", "b", "ab", "<s>"},
                           .merges = {},
                           .types = {2, 1, 1, 1, 3}};
  const auto scored = [&](const std::vector<float>& scores) {
    std::string bytes = B::raw(uint32_t{B::F32}) + B::raw(uint64_t{scores.size()});
    for (const float score : scores) bytes += B::raw(score);
    return tiny(options)
        .key("tokenizer.ggml.scores", B::Array, bytes)
        .u32("tokenizer.ggml.unknown_token_id", 0);
  };
  const Value json = import_gguf(open(folder, scored({0, -1, -2, -3, 0}))).tokenizer_json;
  const Value& model = *json.find("model");
  CHECK(dump_json(*model.find("merges")) == R"([["a", "b"]])");
  CHECK(*model.find("byte_fallback") == Value(true));
  CHECK(*model.find("unk_token") == Value("<unk>"));
  CHECK(*json.find("pre_tokenizer")->find("prepend_scheme") == Value("first"));
  CHECK(contains(dump_json(*json.find("decoder")), R"("type": "Strip")"));
  CHECK(contains(dump_json(*json.find("post_processor")), R"("ids": [0])"));  // BOS unless told not
  B no_blank = scored({0, -1, -2, -3, 0});
  const Value bare =
      import_gguf(open(folder, no_blank.boolean("tokenizer.ggml.add_space_prefix", false)))
          .tokenizer_json;
  CHECK(*bare.find("pre_tokenizer")->find("prepend_scheme") == Value("never"));
  CHECK(!contains(dump_json(*bare.find("decoder")), "Strip"));
  CHECK_BAD_INPUT(import_gguf(open(folder, scored({0, 1}))),
                  "tokenizer.ggml.scores: 2 entries for 5 tokens");
  CHECK_BAD_INPUT(import_gguf(open(folder, scored({0, 1, 2, 3, std::nanf("")}))),
                  "tokenizer.ggml.scores: entry 4 is no number");
  CHECK_BAD_INPUT(import_gguf(open(folder, tiny(options))), "no key \"tokenizer.ggml.scores\"");
}

TEST_CASE("what cannot be imported is refused by name") {
  const TempFolder folder("gguf_refused");
  const auto refused = [&](const B& b, std::string_view text) {
    CHECK_BAD_INPUT(import_gguf(open(folder, b)), text);
  };
  refused(tiny({.architecture = "mamba"}),
          "general.architecture: \"mamba\" is not supported; supported: llama, qwen2, qwen3, phi3, "
          "gpt2");
  refused(tiny({.architecture = "qwen2"}), "no key \"qwen2.embedding_length\"");
  refused(tiny({.tokenizer = "t5"}), "tokenizer.ggml.model: \"t5\" (unigram) is not supported");
  refused(tiny({.tokenizer = "bert"}), "\"bert\" (WordPiece) is not supported");
  refused(tiny({.tokenizer = "rwkv"}), "\"rwkv\" is not supported; supported: gpt2");
  refused(tiny({.pre = "default"}),
          "tokenizer.ggml.pre: \"default\" is not supported; supported: gpt-2");
  refused(tiny({.without = "llama.block_count"}), "no key \"llama.block_count\"");
  refused(tiny({.without = "token_embd.weight"}), "no tensor token_embd.weight");
  refused(tiny({}).u32("llama.expert_count", 8), "llama.expert_count is not supported");
  refused(tiny({}).u32("llama.rope.dimension_count", 2), "only the head size 4");
  refused(tiny({}).u32("llama.vocab_size", 6), "the embedding has 5 rows");
  refused(tiny({}).string("llama.rope.scaling.type", "yarn"),
          "no key \"llama.rope.scaling.original_context_length\"");
  refused(tiny({}).string("llama.rope.scaling.type", "mrope"),
          "RoPE type \"mrope\" is not supported; supported: none, linear, yarn");
  refused(tiny({}).string("llama.rope.scaling.type", "none").f32("llama.rope.scaling.factor", 4),
          "llama.rope.scaling.factor: found 4 without a scaling");
  refused(tiny({}).f32("llama.rope.scaling.attn_factor", 2), "llama.rope.scaling.attn_factor");
  refused(tiny({}).f32("llama.rope.scaling.yarn_ext_factor", 2), "yarn_ext_factor");
  refused(tiny({}).floats("rope_factors_short.weight", {2}, {1, 1}),
          "no tensor rope_factors_long.weight beside rope_factors_short.weight");
  refused(tiny({.rope_factors = llama3_factors(4, 500000, 32, 1, 4, 8192)})
              .f32("llama.rope.scaling.factor", 4),
          "rope_freqs.weight: beside another RoPE scaling");
  refused(tiny({}).string("general.type", "adapter"), "general.type");
  refused(tiny({}).u32("split.count", 2), "split.count");
  refused(tiny({}).floats("blk.1.attn_q.weight", {2}, {1, 2}),
          "tensor blk.1.attn_q.weight belongs to no part");
  refused(tiny({}).floats("blk.00.attn_q.weight", {2}, {1, 2}), "belongs to no part");
  refused(tiny({.without = "blk.0.attn_k.weight"}).floats("blk.0.attn_k.weight", {6, 1}, ramp(6)),
          "expected 1 heads of 4");
  refused(tiny({.without = "blk.0.ffn_up.weight"})
              .tensor("blk.0.ffn_up.weight", {256}, 16, std::string(66, '\0')),
          "tensor blk.0.ffn_up.weight is IQ2_XXS; supported");
  refused(tiny({.tokens = {"a", "b", "ab", "a", "<tool>"}}), "token \"a\" occurs twice");
  refused(tiny({.merges = {"a b", "b a"}}), "tokenizer.ggml.merges: entry 1 \"b a\" does not join");
  refused(tiny({.merges = {"ab"}}), "entry 0 \"ab\"");
  refused(tiny({.merges = {""}}), "entry 0 \"\"");
  refused(tiny({.types = {1, 1}}), "2 entries for 5 tokens");
  refused(tiny({.without = "tokenizer.ggml.eos_token_id"}).u32("tokenizer.ggml.eos_token_id", 5),
          "eos_token_id: found 5");
  refused(tiny({.tokens = {"a", "b", "ab", "c", "d", "e"}, .types = {1, 1, 1, 1, 1, 1}}),
          "6 tokens, the embedding has 5");
}
