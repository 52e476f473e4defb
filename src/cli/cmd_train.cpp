// `lema train`: trains a LoRA adapter as a run config says. The run itself is train/run.h.
#include <memory>

#include "cli/commands.h"
#include "core/log.h"
#include "formats/json.h"
#include "formats/run_config.h"
#include "train/run.h"

namespace lema {
namespace {

struct TrainOptions {
  std::string config, model, data, resume;
  std::vector<std::string> settings;
  bool dry_run = false, print_config = false, print_schema = false;
};

RunConfig resolve(const TrainOptions& options) {
  std::vector<std::string> settings;
  if (!options.model.empty()) settings.push_back("model=" + options.model);
  if (!options.data.empty()) settings.push_back("data.train=" + options.data);
  if (options.config.empty() && !options.data.empty()) settings.push_back("output_dir=lema-run");
  settings.insert(settings.end(), options.settings.begin(), options.settings.end());
  return options.config.empty() ? make_run_config(settings)
                                : load_run_config(options.config, settings);
}

void train(const TrainOptions& options, bool resume) {
  if (options.print_schema) {
    fmt::print("{}\n", dump_json(run_config_schema(), 2));
    return;
  }
  const RunConfig config = resolve(options);
  if (options.print_config) {
    fmt::print("{}\n", dump_json(to_value(config), 2));
    return;
  }
  RunOptions run;
  run.dry_run = options.dry_run;
  if (resume) run.resume = options.resume;
  const RunSummary summary = run_training(config, run);
  if (options.dry_run) return;
  if (summary.last_loss)
    log::info("done: {} steps, last loss {:.4f}, {}", summary.steps, *summary.last_loss,
              summary.checkpoint);
  else
    log::info("nothing to do: all {} steps are done, {}", summary.steps, summary.checkpoint);
}

}  // namespace

void add_train(CLI::App& app) {
  const auto options = std::make_shared<TrainOptions>();
  CLI::App* command = app.add_subcommand("train", "Train a LoRA adapter");
  command->add_option("model", options->model, "Model folder (instead of the config's)");
  command->add_option("data", options->data, "Training rows, JSONL (instead of the config's)");
  command->add_option("--config,-c", options->config, "Run config, JSON or TOML");
  command
      ->add_option("--set", options->settings,
                   "KEY=VALUE over the config, e.g. --set optimizer.lr=1e-4")
      ->take_all()
      ->allow_extra_args(false);
  CLI::Option* resume =
      command
          ->add_option("--resume", options->resume,
                       "Continue the run: from its newest checkpoint, or from this one")
          ->expected(0, 1);
  command->add_flag("--dry-run", options->dry_run,
                    "Check model and data, print the memory plan, train nothing");
  command->add_flag("--print-config", options->print_config, "Print the resolved config and stop");
  command->add_flag("--print-schema", options->print_schema,
                    "Print the JSON schema of run configs and stop");
  command->callback([options, resume] { train(*options, resume->count() > 0); });
}

}  // namespace lema
