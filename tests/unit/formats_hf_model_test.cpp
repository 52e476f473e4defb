// Hugging Face folders: config.json in both spellings, defaults, refusals, shards, and paths that
// try to leave.
#include <cmath>

#include "formats/hf_model.h"
#include "formats/json.h"
#include "support/temp_folder.h"

using namespace lema;

namespace {

ModelConfig parse(std::string_view json) {
  return parse_model_config(parse_json(json, "config.json"), "config.json");
}

const std::string kTiny =
    R"({"model_type": "llama", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1,
  "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 16, "eos_token_id": [3, 5]})";

// A safetensors file of F32 vectors, each of `count` elements.
void write_vectors(const fs::path& path, const std::vector<std::string>& names, int64_t count = 2) {
  std::vector<TensorSpec> specs;
  for (const std::string& name : names) specs.push_back({name, DType::F32, {count}});
  SafetensorsWriter writer(path, specs, {{"format", "pt"}});
  const std::vector<float> zeros(static_cast<size_t>(count) * names.size());
  writer.write(zeros.data(), std::ssize(zeros) * 4);
  writer.finish();
}

std::string index_of(const std::vector<std::pair<std::string, std::string>>& entries,
                     int64_t total_size = -1) {
  Value map{Value::Object{}};
  for (const auto& [tensor, file] : entries) map.set(tensor, file);
  Value index = Value::Object{{"weight_map", map}};
  if (total_size >= 0) index.set("metadata", Value::Object{{"total_size", total_size}});
  return dump_json(index);
}

}  // namespace

TEST_CASE("llama config takes the class defaults") {
  const ModelConfig config = parse(R"({"model_type": "llama"})");
  CHECK(config.family == Family::Llama);
  CHECK((config.C == 4096 && config.F == 11008 && config.L == 32 && config.H == 32 &&
         config.Hkv == 32));
  CHECK((config.D == 128 && config.V == 32000 && config.max_positions == 2048));
  CHECK(config.norm_eps == 1e-6);
  CHECK((config.rope.kind == RopeConfig::Kind::Default && config.rope.theta == 10000));
  CHECK((!config.qkv_bias && !config.o_bias && !config.mlp_bias && !config.tied_head));
  CHECK(config.eos_ids == std::vector<int64_t>{2});
}

TEST_CASE("gpt2 config takes the class defaults") {
  const ModelConfig config =
      parse(R"({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]})");
  CHECK((config.family == Family::Gpt2 && config.activation == Activation::GeluTanh));
  CHECK((config.C == 768 && config.F == 3072 && config.L == 12 && config.H == 12 &&
         config.Hkv == 12 && config.D == 64));
  CHECK((config.V == 50257 && config.max_positions == 1024 && config.norm_eps == 1e-5));
  CHECK((config.qkv_bias && config.o_bias && config.mlp_bias && config.tied_head));
  CHECK(config.rope.kind == RopeConfig::Kind::None);
  CHECK(config.eos_ids == std::vector<int64_t>{50256});
  CHECK(parse(R"({"model_type": "gpt2", "n_embd": 12, "n_head": 3, "n_inner": 20})").F == 20);
}

TEST_CASE("RoPE of v4 and v5 give the same numbers") {
  const std::string llama3 =
      R"("rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192)";
  const auto check_rope = [](const RopeConfig& rope) {
    CHECK((rope.kind == RopeConfig::Kind::Llama3 && rope.theta == 500000 && rope.factor == 8));
    CHECK((rope.low_freq_factor == 1 && rope.high_freq_factor == 4 &&
           rope.original_max_positions == 8192));
  };
  check_rope(
      parse(R"({"model_type": "llama", "rope_theta": 500000.0, "rope_scaling": {)" + llama3 + "}}")
          .rope);
  check_rope(parse(R"({"model_type": "llama", "rope_parameters": {"rope_theta": 500000.0, )" +
                   llama3 + "}}")
                 .rope);
  // rope_scaling hides rope_parameters; the top-level theta only fills a gap.
  check_rope(
      parse(
          R"({"model_type": "llama", "rope_theta": 5.0, "rope_parameters": {"rope_type": "default"},
    "rope_scaling": {"rope_theta": 500000, )" +
          llama3 + "}}")
          .rope);
  CHECK(parse(R"({"model_type": "llama", "rope_theta": 7, "rope_scaling": null})").rope.theta == 7);
  // original_max_position_embeddings: the top level wins, max_position_embeddings is the last
  // resort.
  const std::string gap =
      R"("rope_scaling": {"type": "llama3", "factor": 2, "low_freq_factor": 1, )"
      R"("high_freq_factor": 4)";
  CHECK(parse(R"({"model_type": "llama", "max_position_embeddings": 99, )" + gap + "}}")
            .rope.original_max_positions == 99);
  CHECK(parse(R"({"model_type": "llama", "original_max_position_embeddings": 7, )" + gap +
              R"(, "original_max_position_embeddings": 5}})")
            .rope.original_max_positions == 7);
}

TEST_CASE("token ids: int, list, null, and ids outside the vocabulary left out") {
  CHECK(parse(kTiny).eos_ids == std::vector<int64_t>{3, 5});
  CHECK(parse(R"({"model_type": "llama", "eos_token_id": null})").eos_ids.empty());
  CHECK(parse(R"({"model_type": "gpt2", "n_embd": 8, "n_head": 2, "vocab_size": 20})")
            .eos_ids.empty());
}

TEST_CASE("config: everything unsupported or out of range is refused with its place") {
  const auto refused = [](const std::string& json, std::string_view text) {
    CHECK_BAD_INPUT(parse(json), text);
  };
  const auto llama = [](const std::string& rest) {
    return "{\"model_type\": \"llama\",\n" + rest + "}";
  };
  const auto gpt2 = [](const std::string& rest) {
    return "{\"model_type\": \"gpt2\",\n" + rest + "}";
  };
  refused("[]", "found array, expected an object");
  refused("{}", "no key \"model_type\"; supported: llama");
  refused(R"({"model_type": "gemma3"})",
          "config.json:1: model_type: \"gemma3\" is not supported; supported: llama");
  refused(llama(R"("architectures": ["LlamaForSequenceClassification"])"),
          "config.json:2: architectures");
  refused(llama(R"("quantization_config": {"quant_method": "bitsandbytes"})"),
          "quantised weights (bitsandbytes)");
  refused(llama(R"("per_layer_config": {"0": {"num_key_value_heads": 1}})"),
          "config.json:2: per_layer_config: blocks of different kinds are not supported");
  CHECK_NOTHROW(parse(llama(R"("per_layer_config": null)")));
  refused(llama(R"("hidden_act": "gelu")"), "\"gelu\" is not supported; supported: silu");
  refused(llama(R"("hidden_size": "8")"),
          "config.json:2: hidden_size: found string, expected integer");
  refused(llama(R"("hidden_size": 0)"), "hidden_size: found 0");
  refused(llama(R"("hidden_size": 4611686018427387904)"), "hidden_size: found 4611686018427387904");
  refused(llama(R"("vocab_size": -5)"), "vocab_size: found -5");
  refused(llama(R"("hidden_size": 100)"), "100 is not a multiple of num_attention_heads 32");
  refused(llama(R"("num_key_value_heads": 5)"), "not a multiple of num_key_value_heads 5");
  refused(llama(R"("head_dim": 3)"), "3 is odd");
  refused(llama(R"("rms_norm_eps": -1)"), "rms_norm_eps: found -1");
  refused(llama(R"("eos_token_id": "2")"), "expected integer or list of integers");
  refused(
      llama(R"("rope_scaling": {"type": "mrope"})"),
      "\"mrope\" is not supported; supported: default, linear, dynamic, yarn, llama3, longrope");
  refused(llama(R"("rope_scaling": {"rope_type": "llama3"})"), "no key \"factor\"");
  refused(
      llama(
          R"("rope_scaling": {"rope_type": "llama3", "factor": 2, "low_freq_factor": 4, )"
          R"("high_freq_factor": 4})"),
      "expected more than low_freq_factor");
  refused(llama(R"("rope_parameters": {"full_attention": {"rope_type": "default"}})"),
          "per layer type");
  refused(llama(R"("partial_rotary_factor": 0.5)"), "partial_rotary_factor: only 1");
  refused(llama(R"("rope_theta": 0)"), "rope_theta: found 0");
  refused(gpt2(R"("activation_function": "relu")"), "\"relu\" is not supported");
  refused(gpt2(R"("scale_attn_by_inverse_layer_idx": true)"),
          "scale_attn_by_inverse_layer_idx: true is not supported");
  refused(gpt2(R"("reorder_and_upcast_attn": true)"), "reorder_and_upcast_attn: true");
  refused(gpt2(R"("scale_attn_weights": false)"), "scale_attn_weights: false");
  refused(gpt2(R"("n_embd": 770)"), "not a multiple of n_head");
}

TEST_CASE("RoPE and window settings that no model here has are refused by name") {
  const auto refused = [](std::string_view type, const std::string& rest, std::string_view text) {
    CHECK_BAD_INPUT(parse(fmt::format("{{\"model_type\": \"{}\",\n{}}}", type, rest)), text);
  };
  const auto rope = [](const std::string& members) {
    return "\"rope_scaling\": {" + members + "}";
  };
  const std::string ones = "[" + [] {
    std::string list = "1";
    for (int i = 1; i < 64; ++i) list += ", 1";
    return list;
  }() + "]";
  refused("llama", rope(R"("type": "linear")"), "no key \"factor\"");
  refused("llama", rope(R"("type": "dynamic", "factor": 0.5)"), "factor: found 0.5");
  refused("llama", "\"head_dim\": 2, " + rope(R"("type": "dynamic", "factor": 2)"),
          "dynamic RoPE needs heads of more than 2 columns");
  refused("llama", rope(R"("type": "yarn", "factor": 2, "beta_fast": "32")"),
          "beta_fast: found string");
  refused("llama", rope(R"("type": "yarn", "factor": 2, "truncate": 1)"), "expected boolean");
  refused("llama", "\"rope_theta\": 1, " + rope(R"("type": "yarn", "factor": 2)"),
          "yarn expects more than 1");
  refused("llama", rope(R"("type": "longrope")"), "no key \"short_factor\"");
  refused("llama", rope(R"("type": "longrope", "short_factor": [1], "long_factor": [1])"),
          "short_factor: found 1 numbers, expected 64");
  refused("llama", rope(R"("type": "longrope", "short_factor": 3)"), "expected list of numbers");
  refused("llama",
          rope("\"type\": \"longrope\", \"short_factor\": " + ones + ", \"long_factor\": " + ones +
               ", \"original_max_position_embeddings\": 1"),
          "longrope expects more than 1");
  refused("phi3", rope(R"("type": "linear", "factor": 2)"),
          "\"linear\" is not supported; supported: default, longrope, su, yarn");
  refused("phi3", R"("partial_rotary_factor": 1.5)",
          "partial_rotary_factor: 1.5 of a head of 96 columns is 144, expected 1 to 96");
  refused("qwen2", R"("partial_rotary_factor": 0.5)", "only 1 is supported but in phi3 models");
  refused("qwen2", R"("num_hidden_layers": 2, "layer_types": ["full_attention"])",
          "layer_types: found 1 entries, expected 2");
  refused("qwen3", R"("num_hidden_layers": 1, "layer_types": ["chunked_attention"])",
          "\"chunked_attention\" is not supported");
  refused("qwen3", R"("num_hidden_layers": 1, "layer_types": ["sliding_attention"])",
          "sliding_attention in a qwen3 model without a sliding_window in use");
  refused("mistral", R"("sliding_window": 0)", "sliding_window: found 0");
  refused("mistral", R"("num_hidden_layers": 1, "layer_types": ["full_attention"])",
          "full_attention in a mistral model with a sliding_window in use");
  refused("llama", R"("num_hidden_layers": 1, "layer_types": ["sliding_attention"])",
          "sliding_attention in a llama model without a sliding_window in use");
}

TEST_CASE("families take their classes' defaults and switches") {
  const ModelConfig mistral = parse(R"({"model_type": "mistral"})");
  CHECK((mistral.F == 14336 && mistral.Hkv == 8 && mistral.max_positions == 131072));
  CHECK(mistral.windows == std::vector<int64_t>(32, 4096));
  CHECK((!mistral.qkv_bias && !mistral.o_bias && !mistral.qk_norm && !mistral.is_fused));
  CHECK(parse(R"({"model_type": "mistral", "sliding_window": null})").windows ==
        std::vector<int64_t>(32, 0));
  CHECK(parse(R"({"model_type": "mistral", "num_key_value_heads": null})").Hkv == 32);

  const ModelConfig qwen2 = parse(R"({"model_type": "qwen2", "sliding_window": 7})");
  CHECK((qwen2.qkv_bias && !qwen2.o_bias && !qwen2.qk_norm && qwen2.V == 151936));
  CHECK((qwen2.windows == std::vector<int64_t>(32, 0) && qwen2.eos_ids.empty()));
  const std::string windows = R"("num_hidden_layers": 3, "use_sliding_window": true,
    "sliding_window": 7)";
  CHECK(parse(R"({"model_type": "qwen2", "max_window_layers": 1, )" + windows + "}").windows ==
        std::vector<int64_t>{0, 7, 7});
  const ModelConfig qwen3 = parse(
      R"({"model_type": "qwen3", "layer_types": ["sliding_attention", "full_attention",
    "sliding_attention"], )" +
      windows + "}");
  CHECK((qwen3.qk_norm && !qwen3.qkv_bias && qwen3.D == 128));
  CHECK(qwen3.windows == std::vector<int64_t>{7, 0, 7});

  const ModelConfig phi3 = parse(R"({"model_type": "phi3", "partial_rotary_factor": 0.75})");
  CHECK((phi3.is_fused && phi3.D == 96 && phi3.rope.dim == 72 && phi3.norm_eps == 1e-5));
  CHECK((phi3.max_positions == 4096 && phi3.eos_ids == std::vector<int64_t>{32000}));
}

TEST_CASE("RoPE kinds: what is left out follows from the rest, and how far they stretch") {
  const auto llama = [](const std::string& rope) {
    return parse(R"({"model_type": "llama", "hidden_size": 8, "num_attention_heads": 2,
      "max_position_embeddings": 64, "rope_scaling": {)" +
                 rope + "}}");
  };
  const ModelConfig linear = llama(R"("type": "linear", "factor": 4)");
  CHECK((linear.rope.kind == RopeConfig::Kind::Linear && linear.max_positions == 256));
  const ModelConfig dynamic =
      llama(R"("type": "dynamic", "factor": 2, "original_max_position_embeddings": 3)");
  CHECK((dynamic.rope.original_max_positions == 64 && dynamic.max_positions == 128));
  const ModelConfig yarn =
      llama(R"("type": "yarn", "factor": 4, "original_max_position_embeddings": 32)");
  CHECK((yarn.rope.beta_fast == 32 && yarn.rope.beta_slow == 1 && yarn.rope.truncate));
  CHECK(yarn.rope.attention_factor == 0.1 * std::log(4.0) + 1);
  CHECK(yarn.max_positions == 128);
  CHECK(llama(R"("type": "yarn", "factor": null, "original_max_position_embeddings": 16)")
            .rope.factor == 4);
  const ModelConfig longrope = llama(R"("type": "longrope", "short_factor": [1, 1],
    "long_factor": [2, 3.5], "original_max_position_embeddings": 16)");
  CHECK((longrope.rope.factor == 4 && longrope.max_positions == 64));
  CHECK(longrope.rope.attention_factor == std::sqrt(1 + std::log(4.0) / std::log(16.0)));
  CHECK(longrope.rope.long_factors == std::vector<float>{2, 3.5});
  // Phi-3's older names; its pretraining length stands at the top level alone.
  for (const char* type : {"su", "yarn", "longrope"}) {
    const ModelConfig phi3 = parse(fmt::format(
        R"({{"model_type": "phi3", "hidden_size": 8, "num_attention_heads": 2,
      "max_position_embeddings": 64, "rope_scaling": {{"type": "{}", "short_factor": [1, 1],
      "long_factor": [2, 2], "original_max_position_embeddings": 16}}}})",
        type));
    CHECK(
        (phi3.rope.kind == RopeConfig::Kind::LongRope && phi3.rope.original_max_positions == 4096));
  }
}

TEST_CASE("a folder with one file") {
  const TempFolder folder("hf_single");
  folder.file("config.json", kTiny);
  write_vectors(folder.path() / "model.safetensors", {"b", "a"});
  folder.file("generation_config.json", R"({"eos_token_id": [5, 7, 99]})");
  const ModelFolder model(folder.path());
  CHECK(model.files().size() == 1);
  REQUIRE(model.find("a") != nullptr);
  CHECK(model.find("a")->entry.shape == Shape{2});
  CHECK(contains(model.place(*model.find("a")), "model.safetensors: tensor a"));
  CHECK(model.find("c") == nullptr);
  CHECK(model.stop_ids() == std::vector<int64_t>{5, 7, 3});
  CHECK(!optional_json(model.path(), "tokenizer.json"));
  CHECK_BAD_INPUT(optional_json(model.path(), "../secret.json"), "not a plain relative path");
}

TEST_CASE("a folder with shards: exactly what the index claims") {
  const TempFolder folder("hf_shards");
  folder.file("config.json", kTiny);
  write_vectors(folder.path() / "s1.safetensors", {"a", "b"});
  fs::create_directory(folder.path() / "sub");
  write_vectors(folder.path() / "sub" / "s2.safetensors", {"c"});
  const auto open = [&](const std::string& index) {
    folder.file("model.safetensors.index.json", index);
    return ModelFolder(folder.path());
  };
  const std::vector<std::pair<std::string, std::string>> good = {
      {"a", "s1.safetensors"}, {"b", "s1.safetensors"}, {"c", "sub/s2.safetensors"}};
  const ModelFolder model = open(index_of(good, 24));
  CHECK(model.tensors().size() == 3);
  CHECK(model.find("c")->file == 1);
  CHECK_NOTHROW(open(index_of(good)));

  CHECK_BAD_INPUT(open(index_of(good, 23)), "total_size is 23, the shards hold 24 bytes");
  CHECK_BAD_INPUT(open(index_of({{"a", "s1.safetensors"}})), "tensor b is not listed");
  CHECK_BAD_INPUT(
      open(index_of({{"a", "s1.safetensors"}, {"b", "s1.safetensors"}, {"d", "s1.safetensors"}})),
      "no tensor d");
  // A tensor in two shards is an extra one in the shard that the index does not name.
  write_vectors(folder.path() / "s3.safetensors", {"c", "a"});
  CHECK_BAD_INPUT(
      open(index_of({{"a", "s1.safetensors"}, {"b", "s1.safetensors"}, {"c", "s3.safetensors"}})),
      "s3.safetensors: tensor a is not listed");
  CHECK_BAD_INPUT(open(index_of({{"a", "gone.safetensors"}})), "shard gone.safetensors is missing");
  CHECK_BAD_INPUT(open(R"({"weight_map": {}})"), "weight_map is empty");
  CHECK_BAD_INPUT(open(R"({"weight_map": {"a": 1}})"), "found integer, expected a file name");
  CHECK_BAD_INPUT(open(R"({"metadata": {}})"), "no key \"weight_map\"");
}

TEST_CASE("weight_map cannot leave the folder") {
  const TempFolder outer("hf_paths");
  const fs::path folder = outer.path() / "model";
  outer.file("model/config.json", kTiny);
  write_vectors(outer.path() / "secret.safetensors", {"a"});
  const auto open = [&](std::string_view file) {
    outer.file("model/model.safetensors.index.json", index_of({{"a", std::string(file)}}));
    return ModelFolder(folder);
  };
  const std::string absolute = (outer.path() / "secret.safetensors").string();
  for (const std::string& name :
       {std::string("../secret.safetensors"), absolute, std::string("./a.safetensors"),
        std::string("x//a.safetensors"), std::string("..\\secret.safetensors"), std::string(""),
        std::string("x/"), std::string("x/../../secret.safetensors")})
    CHECK_BAD_INPUT(open(name), "is not a plain relative path");
  CHECK_BAD_INPUT(open(std::string(300, 'a')), "File name too long");
  outer.file("model/model.safetensors.index.json",
             R"({"weight_map": {"a": "b\u0000.safetensors"}})");
  CHECK_BAD_INPUT(ModelFolder{folder}, "not a plain relative path");

  fs::create_symlink("../secret.safetensors", folder / "link.safetensors");
  CHECK_BAD_INPUT(open("link.safetensors"), "symbolic link to ../secret.safetensors");
  fs::create_directory_symlink("..", folder / "up");
  CHECK_BAD_INPUT(open("up/secret.safetensors"), "symbolic link to ..");
  fs::create_directory(folder / "folder.safetensors");
  CHECK_BAD_INPUT(open("folder.safetensors"), "not a regular file");
}

TEST_CASE("the hub cache's links to blobs are followed") {
  const TempFolder cache("hf_cache");
  const fs::path snapshot = cache.path() / "snapshots" / "main";
  fs::create_directories(snapshot);
  cache.file("blobs/0123abcd", kTiny);
  write_vectors(cache.path() / "blobs" / "ffee", {"a"});
  fs::create_symlink("../../blobs/0123abcd", snapshot / "config.json");
  fs::create_symlink("../../blobs/ffee", snapshot / "model.safetensors");
  CHECK(ModelFolder(snapshot).find("a") != nullptr);

  const auto relink = [&](std::string_view target) {
    fs::remove(snapshot / "model.safetensors");
    fs::create_symlink(target, snapshot / "model.safetensors");
  };
  for (std::string_view target :
       {"../../blobs/../blobs/ffee", "../../blobs/gone", "../blobs/ffee", "/etc/passwd"}) {
    relink(target);
    CHECK_BAD_INPUT(ModelFolder{snapshot}, "symbolic link to");
  }
  fs::create_symlink("ffee", cache.path() / "blobs" / "aa");
  relink("../../blobs/aa");
  CHECK_BAD_INPUT(ModelFolder{snapshot}, "symbolic link to");
}

TEST_CASE("a folder without safetensors weights says what is there") {
  const TempFolder folder("hf_missing");
  CHECK_BAD_INPUT(ModelFolder{folder.path() / "gone"}, "no such folder");
  CHECK_BAD_INPUT(ModelFolder{folder.file("m.gguf", "GGUF")}, "not a folder");
  fs::remove(folder.path() / "m.gguf");
  CHECK_BAD_INPUT(ModelFolder{folder.path()}, "no config.json");
  folder.file("config.json", kTiny);
  CHECK_BAD_INPUT(ModelFolder{folder.path()},
                  "neither model.safetensors nor model.safetensors.index.json");
  folder.file("pytorch_model.bin", "x");
  CHECK_BAD_INPUT(ModelFolder{folder.path()}, "found pytorch_model.bin");
  folder.file("model-q4.gguf", "x");
  CHECK_BAD_INPUT(ModelFolder{folder.path()}, "model-q4.gguf");
}
