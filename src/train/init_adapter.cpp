// The settings of a run beside those of the adapter that it starts from.
#include "train/init_adapter.h"

#include <algorithm>
#include <string>
#include <vector>

#include "core/log.h"
#include "formats/json.h"
#include "model/opened_adapter.h"
#include "train/checkpoint.h"

namespace lema {
namespace {

// The settings that an adapter's files hold.
RunConfig::Lora settings_of(const AdapterConfig& adapter, RunConfig::Lora lora) {
  lora.rank = adapter.rank;
  lora.alpha = adapter.alpha;
  lora.dropout = adapter.dropout;
  lora.rslora = adapter.rslora;
  lora.dora = adapter.dora;
  lora.rank_pattern = adapter.rank_pattern;
  lora.alpha_pattern = adapter.alpha_pattern;
  lora.modules_to_save = adapter.modules_to_save;
  lora.targets = adapter.target_modules;
  if (!adapter.target_regex.empty()) lora.targets = {adapter.target_regex};
  lora.exclude_modules.clear();
  lora.layers = {"all"};
  return lora;
}

const Value& setting(const Value& config, std::string_view key) {
  return *config.find("lora")->find(key);
}

// "rank 4, scale 2.5", or "adapted" where ranks do not matter; "in full"; "not adapted".
std::string describe(const AdapterParameters& parameters, const AdapterSite& site, bool ranks) {
  if (site.block < 0 && parameters.is_full(site.field)) return "in full";
  for (const AdapterSlot& slot : parameters.slots())
    if (slot.site.path == site.path)
      return ranks ? fmt::format("rank {}, scale {:.7g}", slot.rank, slot.scale) : "adapted";
  return "not adapted";
}

// Settings that choose modules say the same when they choose the same, with the same ranks.
void check_choice(const RunConfig& config, const std::vector<std::string>& stated,
                  const PieceTable& table, const Adapter& adapter) {
  if (stated.empty()) return;
  const bool ranks = std::any_of(stated.begin(), stated.end(), [](const std::string& key) {
    return key.ends_with("_pattern");
  });
  AdapterOptions options = adapter_options(config.lora);
  if (!ranks) options.config.rank_pattern = {}, options.config.alpha_pattern = {};
  const AdapterParameters wanted(table, options),
      found(table, adapter, config.lora.init_from);
  for (const AdapterSite& site : adapter_sites(table.spec)) {
    const std::string mine = describe(wanted, site, ranks), its = describe(found, site, ranks);
    if (mine != its)
      fail(ErrorCode::Usage,
           "{}: {} by {}, {} in the adapter {} of lora.init_from; leave the setting out to take "
           "the adapter's",
           site.path, mine, fmt::join(stated, ", "), its, config.lora.init_from);
  }
}

}  // namespace

AdapterOptions adapter_options(const RunConfig::Lora& lora) {
  AdapterOptions options{{}, lora.targets, lora.exclude_modules, lora.layers};
  options.config.rank = lora.rank;
  options.config.alpha = lora.alpha;
  options.config.dropout = lora.dropout;
  options.config.rslora = lora.rslora;
  options.config.dora = lora.dora;
  options.config.modules_to_save = lora.modules_to_save;
  options.config.rank_pattern = lora.rank_pattern;
  options.config.alpha_pattern = lora.alpha_pattern;
  return options;
}

std::optional<Adapter> open_init_adapter(RunConfig& config, const ModelFolder& folder) {
  const std::string& source = config.lora.init_from;
  if (source.empty()) return std::nullopt;
  const PieceTable table = make_piece_table(folder);
  Adapter adapter = open_adapter(source, folder, table.spec);
  if (!adapter.own_base.empty())
    fail(ErrorCode::BadInput,
         "{}: has a {} of its own, which is not trained; merge it with lema merge and train on the "
         "result",
         source, adapter.own_base.front());

  RunConfig taken = config;
  taken.lora = settings_of(adapter.config, config.lora);
  const Value mine = to_value(config), its = to_value(taken);
  const auto is_stated = [&](const std::string& key) {
    return config.given.contains("lora." + key);
  };
  for (const char* key : {"rank", "alpha", "rslora", "dora"})
    if (is_stated(key) && !(setting(mine, key) == setting(its, key)))
      fail(ErrorCode::Usage,
           "lora.{} is {}; the adapter {} of lora.init_from has {}: leave the setting out to take "
           "the adapter's",
           key, dump_json(setting(mine, key)), source, dump_json(setting(its, key)));

  std::vector<std::string> stated;
  const auto keep = [&](const char* key, auto RunConfig::Lora::* field) {
    if (!is_stated(key)) return;
    taken.lora.*field = config.lora.*field;
    stated.push_back(fmt::format("lora.{}", key));
  };
  keep("targets", &RunConfig::Lora::targets);
  keep("exclude_modules", &RunConfig::Lora::exclude_modules);
  keep("layers", &RunConfig::Lora::layers);
  keep("rank_pattern", &RunConfig::Lora::rank_pattern);
  keep("alpha_pattern", &RunConfig::Lora::alpha_pattern);
  keep("modules_to_save", &RunConfig::Lora::modules_to_save);
  if (is_stated("dropout")) taken.lora.dropout = config.lora.dropout;
  check_choice(taken, stated, table, adapter);
  config.lora = taken.lora;
  adapter.config.dropout = config.lora.dropout;
  log::info("{}: {} of rank {}, alpha {}, dropout {}: the run goes on with it", source,
            config.lora.dora ? "DoRA" : "LoRA", config.lora.rank, config.lora.alpha,
            config.lora.dropout);
  return adapter;
}

std::optional<Adapter> open_resumed_adapter(RunConfig& config, const ModelFolder& folder,
                                            const fs::path& checkpoint) {
  if (config.lora.init_from.empty()) return std::nullopt;
  const Value saved = saved_config(checkpoint);
  const Value* taken = saved.find("lora");
  if (!taken) fail(ErrorCode::BadInput, "{}: its config has no lora", checkpoint.string());
  Value lora = *taken;
  const Value mine = to_value(config);
  for (const auto& [key, value] : mine.find("lora")->as_object())
    if (key == "init_from" || config.given.contains("lora." + key)) lora.set(key, value);
  config.lora =
      make_run_config({"model=?", "output_dir=?", "data.train=?", "lora=" + dump_json(lora)}).lora;
  Adapter adapter = open_adapter(checkpoint, folder, make_piece_table(folder).spec);
  adapter.config.dropout = config.lora.dropout;
  return adapter;
}

}  // namespace lema
