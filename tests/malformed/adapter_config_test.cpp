// Malformed and hostile adapter_config.json: cases beyond those of
// tests/unit/formats_peft_adapter_test.cpp.
#include "core/log.h"
#include "formats/json.h"
#include "formats/peft_adapter.h"
#include "support/malformed.h"

using namespace lema;

namespace {

void parse(const std::string& bytes) {
  spdlog::set_level(spdlog::level::err);
  parse_adapter_config(parse_json(bytes, "adapter_config.json"), "adapter_config.json");
}

std::string with(std::string_view members) {
  return fmt::format("{{\"peft_type\": \"LORA\",\n{}}}", members);
}

// "KEY": VALUE for each of the values.
std::vector<Malformed> each(std::string_view key, std::initializer_list<const char*> values) {
  std::vector<Malformed> cases;
  for (const char* value : values)
    cases.push_back({fmt::format("{} {}", key, value), with(fmt::format("\"{}\": {}", key, value)),
                     fmt::format("adapter_config.json:2: {}", key)});
  return cases;
}

void expect(const std::vector<std::vector<Malformed>>& tables) {
  std::vector<Malformed> cases;
  for (const auto& table : tables) cases.insert(cases.end(), table.begin(), table.end());
  expect_refused(cases, "adapter_config.json", parse);
}

}  // namespace

TEST_CASE("adapter_config.json: numbers that no adapter has") {
  expect({each("r", {"0", "-1", "65537", "9223372036854775807", "4294967304", "8.0", "\"8\"",
                     "[8]", "true", "{}"}),
          each("lora_alpha", {"-1", "-0.001", "1e10", "1e308", "\"16\"", "[16]", "true", "{}"}),
          each("lora_dropout", {"1", "1.0", "-0.1", "2", "1e308", "\"0\"", "[0]", "false"}),
          each("layers_to_transform", {"1.5", "\"0\"", "{}", "true", "[0.0]", "[null]", "[[0]]"})});
}

TEST_CASE("adapter_config.json: members of another type") {
  expect({each("task_type", {"1", "[]", "\"SEQ_CLS\"", "\"\\u001b[2J\""}),
          each("base_model_name_or_path", {"1", "[\"m\"]", "{}"}),
          each("fan_in_fan_out", {"1", "\"true\"", "[]"}),
          each("use_rslora", {"1", "\"true\"", "{}"}),
          each("use_dora", {"0", "\"false\"", "[]"}),
          each("init_lora_weights", {"1", "[]", "{}", "\"pissa\"", "\"olora\"", "\"\\u001b[2J\""}),
          each("target_modules", {"1", "{}", "true", "[1]", "[null]", "[[\"q\"]]"}),
          each("exclude_modules", {"1", "{}", "[{}]"}),
          each("layers_pattern", {"1", "{}", "[1]"}),
          each("modules_to_save", {"\"lm_head\"", "1", "{}", "[1]", "[null]"})});
  const std::vector<Malformed> cases = {
      {"no type", "{}", "peft_type: found \"\", expected \"LORA\""},
      {"a type that is null", R"({"peft_type": null})", "peft_type: found \"\""},
      {"a type that is a number", R"({"peft_type": 1})", "peft_type: found integer"},
      {"a type of another method", R"({"peft_type": "IA3"})", "peft_type: found \"IA3\""},
      {"a terminal escape as type", R"({"peft_type": "\u001b[2J"})", "found \"\\x1b[2J\""},
      {"layers beside an expression",
       with(R"("target_modules": "q", "layers_to_transform": 0)"), "expected a list of names"},
      {"a list", "[]", "found array, expected an object"},
      {"nothing", "", "adapter_config.json:1:1: "},
      {"a git-lfs pointer", "version https://git-lfs.github.com/spec/v1\n",
       "adapter_config.json:1:1: "},
      {"a byte order mark", "\xef\xbb\xbf" + with(R"("r": 8)"), "byte order mark"},
      {"cut in the middle", with(R"("r": 8)").substr(0, 25), "adapter_config.json:2:"},
      {"a rank twice", with(R"("r": 8, "r": 4)"), "duplicate key \"r\""},
  };
  expect_refused(cases, "adapter_config.json", parse);
}

TEST_CASE("adapter_config.json: patterns and options that lema cannot follow") {
  expect_accepted({with(R"("r": 8, "target_modules": ["q"], "rank_pattern": {"^q": 4},)"
                        R"( "alpha_pattern": {"v": 3.5}, "layers_to_transform": [0, 1])"),
                   with(R"("target_modules": "all-linear", "use_dora": true, "bias": "none")")},
                  parse);
  expect({each("rank_pattern", {"1", "[]", "\"q\"", "{\"q\": 0}", "{\"q\": -1}", "{\"q\": 65537}",
                                "{\"q\": 4.0}", "{\"q\": \"4\"}", "{\"q\": null}", "{\"q\": [4]}",
                                "{\"\\u001b[2J\": 0}"}),
          each("alpha_pattern", {"1", "[]", "\"q\"", "{\"q\": -1}", "{\"q\": 1e10}",
                                 "{\"q\": \"4\"}", "{\"q\": null}", "{\"\\n\": true}"}),
          each("bias", {"\"all\"", "\"lora_only\"", "true", "1", "[0]"}),
          each("lora_bias", {"true", "1", "\"x\""}),
          each("trainable_token_indices", {"[1]", "{\"a\": [1]}"}),
          each("ensure_weight_tying", {"true"}),
          each("layer_replication", {"[[0, 1]]"}),
          each("target_parameters", {"[\"x\"]"}),
          each("use_qalora", {"true"}),
          each("alora_invocation_tokens", {"[1]"}),
          each("arrow_config", {"{\"a\": 1}"}),
          each("use_bdlora", {"{\"\\u001b[2J\": 1}"}),
          each("megatron_config", {"{\"a\": 1}"}),
          each("monteclora_config", {"{\"a\": 1}"}),
          each("velora_config", {"{\"a\": 1}"}),
          each("kasa_config", {"{\"a\": 1}"})});
}

TEST_CASE("adapter_config.json: lists and members that are made to cost") {
  std::string members;
  for (int i = 0; i < 200'000; ++i) members += fmt::format("\"{}\": 1,", i);
  const std::vector<Malformed> cases = {
      {"5,000 target modules",
       with("\"target_modules\": [" + repeat("\"q\",", 4999) + "\"q\"]"),
       "target_modules: found 5000 entries, at most 4096"},
      {"5,000 layers", with("\"layers_to_transform\": [" + repeat("0,", 4999) + "0]"),
       "layers_to_transform: found 5000 entries, at most 4096"},
      {"200,000 ranks, the last of 0",
       with("\"rank_pattern\": {" + members + "\"x\": 0}"), "rank_pattern: found 200001 entries"},
      {"200,000 alphas, the last of -1",
       with("\"alpha_pattern\": {" + members + "\"x\": -1}"),
       "alpha_pattern: found 200001 entries"},
      {"200,000 unknown keys before a rank of 0", with(members + "\"r\": 0"), "r: found 0"},
      {"a bias of 1 MB", with("\"bias\": \"" + repeat("x", 1 << 20) + "\""), "bias = "},
      {"a type of 1 MB", R"({"peft_type": ")" + repeat("x", 1 << 20) + "\"}", "peft_type: found"},
      {"an unknown key of 1 MB before a rank of 0",
       with("\"" + repeat("k", 1 << 20) + "\": 1, \"r\": 0"), "r: found 0"},
      {"a million brackets", with("\"r\": " + repeat("[", 1'000'000)), "deeper than 64 levels"},
  };
  expect_refused(cases, "adapter_config.json", parse);
}
