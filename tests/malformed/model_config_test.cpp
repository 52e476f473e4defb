// Malformed and hostile config.json: cases beyond those of tests/unit/formats_hf_model_test.cpp.
#include "formats/hf_model.h"
#include "formats/json.h"
#include "support/malformed.h"

using namespace lema;

namespace {

void parse(const std::string& bytes) {
  parse_model_config(parse_json(bytes, "config.json"), "config.json");
}

std::string model(std::string_view type, std::string_view rest) {
  return fmt::format("{{\"model_type\": \"{}\",\n{}}}", type, rest);
}

}  // namespace

TEST_CASE("sizes that no model has") {
  std::vector<Malformed> cases;
  for (const char* key :
       {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings"})
    for (const char* value :
         {"0", "-1", "9223372036854775807", "4294967297", "1.0", "\"8\"", "[8]", "true"})
      cases.push_back({fmt::format("{} {}", key, value),
                       model("llama", fmt::format("\"{}\": {}", key, value)),
                       fmt::format("config.json:2: {}: found", key)});
  for (const char* key : {"n_embd", "n_inner", "n_layer", "n_head", "vocab_size", "n_positions"})
    for (const char* value : {"0", "-9223372036854775808", "1099511627776"})
      cases.push_back({fmt::format("{} {}", key, value),
                       model("gpt2", fmt::format("\"{}\": {}", key, value)),
                       fmt::format("config.json:2: {}: found", key)});
  expect_refused(cases, "config.json", parse);
}

TEST_CASE("settings of another type") {
  std::vector<Malformed> cases;
  for (const char* key : {"tie_word_embeddings", "attention_bias", "mlp_bias"})
    for (const char* value : {"1", "\"true\"", "[]"})
      cases.push_back({fmt::format("{} {}", key, value),
                       model("llama", fmt::format("\"{}\": {}", key, value)),
                       fmt::format("config.json:2: {}: found", key)});
  for (const char* value : {"-1", "2", "\"1e-5\"", "{}"})
    cases.push_back({fmt::format("rms_norm_eps {}", value),
                     model("llama", fmt::format("\"rms_norm_eps\": {}", value)),
                     "rms_norm_eps: found"});
  for (const char* value : {"1", "\"LlamaForCausalLM\"", "{}", "[1]", "[]", "[null]"})
    cases.push_back({fmt::format("architectures {}", value),
                     model("llama", fmt::format("\"architectures\": {}", value)), "architectures"});
  for (const char* value : {"\"2\"", "[\"2\"]", "{}", "true", "[1, null]"})
    cases.push_back({fmt::format("eos_token_id {}", value),
                     model("llama", fmt::format("\"eos_token_id\": {}", value)),
                     "eos_token_id: found"});
  for (const char* value : {"1", "\"linear\"", "[]"})
    cases.push_back({fmt::format("rope_scaling {}", value),
                     model("llama", fmt::format("\"rope_scaling\": {}", value)),
                     "rope_scaling: found"});
  for (const char* value : {"1", "[]", "{}", "\"\""})
    cases.push_back({fmt::format("model_type {}", value),
                     fmt::format("{{\"model_type\": {}}}", value), "model_type"});
  cases.push_back({"a terminal escape as model_type", R"({"model_type": "\u001b[2J"})",
                   "\"\\x1b[2J\" is not supported"});
  cases.push_back({"a terminal escape as architecture",
                   model("llama", R"("architectures": ["\u001b[2J"])"), "\\x1b[2J"});
  cases.push_back({"a model_type of 1 MB", R"({"model_type": ")" + repeat("x", 1 << 20) + "\"}",
                   "is not supported"});
  cases.push_back({"100,000 architectures",
                   model("llama", "\"architectures\": [" + repeat("\"x\",", 100'000) + "\"y\"]"),
                   "architectures"});
  expect_refused(cases, "config.json", parse);
}

TEST_CASE("RoPE and window numbers that arithmetic cannot take") {
  std::vector<Malformed> cases;
  const auto rope = [&](std::string_view members, std::string_view part) {
    cases.push_back({std::string(members),
                     model("llama", fmt::format("\"rope_scaling\": {{{}}}", members)),
                     std::string(part)});
  };
  for (const char* value : {"0", "-2", "1e16", "\"2\"", "null"})
    rope(fmt::format("\"type\": \"linear\", \"factor\": {}", value), "factor");
  for (const char* value : {"0", "-1", "1e300", "\"1\""})
    rope(fmt::format("\"type\": \"default\", \"rope_theta\": {}", value), "rope_theta: found");
  for (const char* key : {"beta_fast", "beta_slow", "mscale", "mscale_all_dim", "attention_factor"})
    rope(fmt::format("\"type\": \"yarn\", \"factor\": 2, \"{}\": -1", key),
         fmt::format("{}: found -1", key));
  for (const char* value : {"0", "-1", "2147483649", "1.5"})
    rope(fmt::format("\"type\": \"yarn\", \"factor\": 2, \"original_max_position_embeddings\": {}",
                     value),
         "original_max_position_embeddings: found");
  rope(R"("type": "\u001b[31m")", "\\x1b[31m");
  for (const char* share : {"1.5", "2", "1e15", "0", "-1"})
    cases.push_back({fmt::format("partial_rotary_factor {}", share),
                     model("phi3", fmt::format("\"partial_rotary_factor\": {}", share)),
                     "partial_rotary_factor: "});
  rope(R"("type": 3)", "type: found integer");
  rope(R"("rope_type": "llama3", "factor": 8, "low_freq_factor": 0, "high_freq_factor": 4)",
       "low_freq_factor");
  rope(R"("\u001b[2J": {})", "per layer type (\"\\x1b[2J\")");
  for (const char* list : {"[]", "[0]", "[-1]", "[\"1\"]", "[1e16]", "1"})
    cases.push_back(
        {fmt::format("short_factor {}", list),
         model("phi3",
               fmt::format("\"hidden_size\": 64, \"rope_scaling\": {{\"type\": \"longrope\", "
                           "\"short_factor\": {}, \"long_factor\": {}}}",
                           list, list)),
         "short_factor: found"});
  for (const char* value : {"-1", "0", "2147483649", "\"8\""})
    cases.push_back({fmt::format("sliding_window {}", value),
                     model("mistral", fmt::format("\"sliding_window\": {}", value)),
                     "sliding_window: found"});
  for (const char* value : {"1", "{}", "[1]", "[null]", "[\"x\"]", "[]"})
    cases.push_back(
        {fmt::format("layer_types {}", value),
         model("qwen3", fmt::format("\"num_hidden_layers\": 1, \"layer_types\": {}", value)),
         "layer_types"});
  expect_refused(cases, "config.json", parse);
}
