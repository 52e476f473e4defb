// Which modules get an adapter, of which rank and scale: PEFT's rules, and every refusal.
#include <cmath>

#include "core/error.h"
#include "model/adapter_parameters.h"
#include "support/catch.h"
#include "support/message_of.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"

using namespace lema;

namespace {

const std::string kQ0 = "model.layers.0.self_attn.q_proj", kV1 = "model.layers.1.self_attn.v_proj",
                  kDown2 = "model.layers.2.mlp.down_proj";

std::string chosen(const std::vector<std::string>& layers) {
  std::string text;
  for (const bool c : chosen_blocks(layers, 5)) text += c ? 'x' : '.';
  return text;
}

}  // namespace

TEST_CASE("a choice is a list of names or one expression over the whole path") {
  const ModuleChoice names({"q_proj", "mlp.down_proj", kV1}, "lora.targets");
  CHECK((names.matches(kQ0) && names.matches(kV1) && names.matches(kDown2)));
  CHECK_FALSE(names.matches("model.layers.0.self_attn.v_proj"));
  CHECK_FALSE(names.matches("model.layers.0.self_attn.qq_proj"));
  CHECK(names.unmatched() == nullptr);
  const ModuleChoice missing({"q_proj", "nope"}, "lora.targets");
  CHECK(missing.matches(kQ0));
  REQUIRE(missing.unmatched() != nullptr);
  CHECK(*missing.unmatched() == "nope");
  const ModuleChoice regex({".*[qv]_proj"}, "lora.targets");
  CHECK((regex.matches(kQ0) && regex.matches(kV1) && !regex.matches(kDown2)));
  CHECK(regex.unmatched() == nullptr);
  const ModuleChoice idle({"[qv]_proj"}, "lora.targets");
  CHECK_FALSE(idle.matches(kQ0));
  REQUIRE(idle.unmatched() != nullptr);
  CHECK(*idle.unmatched() == "[qv]_proj");
  CHECK_FALSE(ModuleChoice({}, "lora.exclude_modules").matches(kQ0));
  CHECK(contains(message_of(ErrorCode::Usage,
                            [] {
                              ModuleChoice({"q_proj", ".*v"}, "lora.targets");
                            }),
                 "lora.targets: \".*v\" in a list is no module name"));
  CHECK(contains(message_of(ErrorCode::Usage, [] { ModuleChoice({"(q"}, "lora.targets"); }),
                 "lora.targets"));
}

TEST_CASE("layers are numbers, first and last") {
  CHECK(chosen({"all"}) == "xxxxx");
  CHECK(chosen({"first:2"}) == "xx...");
  CHECK(chosen({"last:2"}) == "...xx");
  CHECK(chosen({"0", "3"}) == "x..x.");
  CHECK(chosen({"first:1", "last:1", "2"}) == "x.x.x");
  for (const char* bad : {"5", "first:6", "last:6", "first:0", "last:0", "-1", "1.0", "",
                          "first:", "x", "9223372036854775807",
                          "first:9223372036854775807", "last:9223372036854775807",
                          "9999999999999999999"})
    CHECK(contains(message_of(ErrorCode::Usage, [&] { chosen({bad}); }), "lora.layers: "));
}

TEST_CASE("the first pattern that ends a path decides about rank and alpha") {
  AdapterConfig config;
  config.rank = 8;
  config.alpha = 16;
  config.rank_pattern = {{"self_attn.q_proj", 4}, {"[qv]_proj", 2}, {"model.layers.2.*", 1}};
  config.alpha_pattern = {{"v_proj", 3}};
  const AdapterRules plain(config, "test");
  CHECK((plain.rank(kQ0) == 4 && plain.rank(kV1) == 2 && plain.rank(kDown2) == 1));
  CHECK(plain.rank("model.layers.0.mlp.up_proj") == 8);
  CHECK((plain.scale(kQ0) == 4 && plain.scale(kV1) == 1.5 && plain.scale(kDown2) == 16));
  CHECK(plain.unmatched().empty());
  config.rslora = true;
  const AdapterRules rslora(config, "test");
  CHECK(rslora.scale(kQ0) == 8);
  CHECK(rslora.scale(kV1) == 3 / std::sqrt(2.0));
  CHECK(rslora.unmatched() == "rank_pattern: \"model.layers.2.*\"");
  config.alpha_pattern = {{"(v", 3}};
  CHECK_THROWS_AS(AdapterRules(config, "test"), Error);
}

TEST_CASE("many entries and slow expressions are refused, as the setting's kind of error") {
  const auto refused = [](ErrorCode code, const auto& use, std::string_view text) {
    CHECK(contains(message_of(code, use), text));
  };
  const std::string too_many = "found 4097 entries, at most 4096 are allowed";
  refused(
      ErrorCode::Usage,
      [] { ModuleChoice(std::vector<std::string>(4097, "q_proj"), "lora.targets"); },
      "lora.targets: " + too_many);
  for (const ErrorCode code : {ErrorCode::Usage, ErrorCode::BadInput}) {
    AdapterConfig config;
    config.rank_pattern.assign(4097, {"q_proj", 2});
    refused(code, [&] { AdapterRules(config, "test", code); }, "test: rank_pattern: " + too_many);
    config.rank_pattern.assign(4096, {"k_proj", 2});
    config.alpha_pattern = {{"([a-z._0-9]+)+[0-9]", 2}};
    const AdapterRules rules(config, "test", code);
    refused(code, [&] { rules.rank(kQ0); }, "test: alpha_pattern: the pattern gave up");
  }
  const ModuleChoice slow({"([a-z._0-9]+)+[0-9]"}, "lora.targets");
  refused(ErrorCode::Usage, [&] { slow.matches(kQ0); }, "lora.targets: the pattern gave up");
}

TEST_CASE("an adapter's own config chooses each of its pairs, as PEFT would") {
  const auto resolved = [](const auto& change) {
    Adapter adapter;
    for (const std::string& path : {kQ0, kV1, kDown2})
      adapter.modules[path].place = "tensor " + path;
    change(adapter.config);
    resolve_targets(adapter, "test");
    return adapter.config;
  };
  const auto refused = [&](const auto& change, const std::string& path, std::string_view reason) {
    const std::string message = message_of(ErrorCode::BadInput, [&] { resolved(change); });
    CHECK(contains(message, "tensor " + path + ": "));
    CHECK(contains(message, reason));
  };
  using Names = std::vector<std::string>;
  const Names all = {"q_proj", "v_proj", "mlp.down_proj"}, exact = {kQ0, kV1, kDown2};
  CHECK(resolved([&](AdapterConfig& c) { c.target_modules = all; }).target_modules == all);
  CHECK(resolved([](AdapterConfig& c) { c.target_regex = kAllLinear; }).target_regex == kAllLinear);
  refused([](AdapterConfig& c) { c.target_modules = {"q_proj", "zzz"}; }, kV1, "target_modules");
  refused([](AdapterConfig& c) { c.target_modules = {}; }, kQ0, "target_modules does not name");
  refused([](AdapterConfig& c) { c.target_regex = ".*[qv]_proj"; }, kDown2, "target_modules");
  refused([](AdapterConfig& c) { c.target_regex = "down_proj"; }, kQ0, "target_modules");
  // A list has names, not expressions.
  refused([](AdapterConfig& c) { c.target_modules = {".*"}; }, kQ0, "target_modules");

  const auto excluding = [&](AdapterConfig& c) {
    c.target_modules = all;
    c.exclude_modules = {"k_proj"};
  };
  CHECK(resolved(excluding).target_modules == exact);
  CHECK(resolved(excluding).exclude_modules.empty());
  refused([&](AdapterConfig& c) { excluding(c), c.exclude_modules = {"v_proj"}; }, kV1, "exclude_");
  refused([&](AdapterConfig& c) { c.target_modules = all, c.exclude_regex = ".*mlp.*"; }, kDown2,
          "exclude_modules takes its module out");

  const auto in_layers = [&](AdapterConfig& c) { c.target_modules = all, c.layers = {0, 1, 2}; };
  CHECK(resolved(in_layers).target_modules == exact);
  const auto patterned = [&](AdapterConfig& c) {
    in_layers(c);
    c.layers_patterns = {"h", "layers"};
  };
  CHECK((resolved(patterned).target_modules == exact && resolved(patterned).layers.empty()));
  refused([&](AdapterConfig& c) { in_layers(c), c.layers = {0, 2}; }, kV1, "layers_to_transform");
  refused([&](AdapterConfig& c) { patterned(c), c.layers_patterns = {"layer"}; }, kQ0,
          "layers_to_transform leaves");
  // A whole path is chosen whatever the layers.
  CHECK_NOTHROW(resolved([&](AdapterConfig& c) { c.target_modules = exact, c.layers = {7}; }));
}

TEST_CASE("what the settings of a run choose") {
  const TempFolder folder("adapter_choice");
  test::write_tiny_model(folder.path());
  const ModelFolder model(folder.path());
  const PieceTable table = make_piece_table(model);
  AdapterOptions options;
  options.config.rank = 4;
  options.config.alpha = 8;
  CHECK(AdapterParameters(table, options).slots().size() == 21);
  options.exclude_modules = {".*mlp.*"};
  options.layers = {"last:1"};
  options.config.rank_pattern = {{"v_proj", 2}};
  const AdapterParameters parameters(table, options);
  REQUIRE(parameters.slots().size() == 4);
  CHECK((parameters.lowest_block() == 2 && parameters.largest_rank() == 4));
  for (const AdapterSlot& slot : parameters.slots()) {
    const bool is_v = slot.site.field == Field::Wv;
    CHECK((slot.site.block == 2 && slot.rank == (is_v ? 2 : 4) &&
           slot.scale == (is_v ? 4.0f : 2.0f)));
  }
  // LoRA+: every parameter once, B at the multiple.
  int64_t end = 0, count_b = 0;
  for (const ParameterRun& run : parameters.runs(16, 0.5)) {
    CHECK(run.offset == end);
    end += run.count;
    if (run.lr_factor == 16) count_b += run.count;
  }
  CHECK(end == parameters.parameter_count());
  CHECK(count_b == 32 * 4 + 16 * 4 + 16 * 2 + 32 * 4);
  CHECK(parameters.runs(1, 0.5).size() == 1);

  // Matrices in full lie where the model has them, and both ends of backward move.
  options.config.modules_to_save = {"embed_tokens", "lm_head"};
  const AdapterParameters full(table, options);
  const int64_t matrix = model.config().V * model.config().C;
  CHECK(full.parameter_count() == parameters.parameter_count() + 2 * matrix);
  CHECK(full.slots().front().a_offset == matrix);
  CHECK((full.lowest_block() == -1 && full.is_full(Field::Embed) && full.is_full(Field::Head)));
  CHECK(!parameters.is_full(Field::Head));

  // The head lies after the blocks, which backward then need not enter.
  AdapterOptions head;
  head.config.rank = 5;
  head.config.alpha = 5;
  head.targets = {"lm_head"};
  const AdapterParameters of_head(table, head);
  CHECK((of_head.head_rank() == 5 && of_head.slots().size() == 1));
  CHECK((of_head.lowest_block() == 3 && parameters.head_rank() == 0));

  const auto message = [&](auto change) {
    AdapterOptions changed;
    changed.config.rank = 4;
    changed.config.alpha = 8;
    change(changed);
    return message_of(ErrorCode::Usage, [&] { AdapterParameters(table, changed); });
  };
  CHECK(contains(message([](AdapterOptions& o) {
                   o.targets = {"q_proj", "wq"};
                 }),
                 "lora.targets: \"wq\" is no module of this model"));
  CHECK(contains(message([](AdapterOptions& o) {
                   o.targets = {"q_proj", "lm_head"};
                   o.config.modules_to_save = {"lm_head"};
                 }),
                 "lora.targets: \"lm_head\" is named by lora.modules_to_save too"));
  CHECK(contains(message([](AdapterOptions& o) {
                   o.targets = {"embed_tokens"};
                   o.config.dora = true;
                 }),
                 "lora.dora: model.embed_tokens cannot have a magnitude"));
  CHECK(contains(message([](AdapterOptions& o) {
                   o.targets = {"lm_head"};
                   o.config.dora = true;
                 }),
                 "lora.dora: lm_head cannot have a magnitude"));
  for (const char* entry : {"q_proj", "norm", "lm_.*x"})
    CHECK(contains(message([&](AdapterOptions& o) { o.config.modules_to_save = {entry}; }),
                   "cannot be trained in full; model.embed_tokens and lm_head can"));
  CHECK(contains(message([](AdapterOptions& o) { o.exclude_modules = {"wq"}; }),
                 "lora.exclude_modules: \"wq\" is no module"));
  CHECK(contains(message([](AdapterOptions& o) { o.exclude_modules = {".*wq"}; }),
                 "lora.exclude_modules: \".*wq\" is no module"));
  CHECK(contains(message([](AdapterOptions& o) { o.exclude_modules = {".*"}; }),
                 "no module is left to adapt"));
  CHECK(contains(message([](AdapterOptions& o) {
                   o.config.rank_pattern = {{"wq", 2}};
                 }),
                 "lora.rank_pattern: \"wq\" decides about no adapted module"));
}
