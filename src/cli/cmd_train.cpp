// `lema train`: trains a LoRA adapter as a run config says. The run itself is train/run.h.
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/options.h"
#include "core/log.h"
#include "formats/json.h"
#include "formats/run_config.h"
#include "train/plan_training.h"
#include "train/run.h"

namespace lema {
namespace {

struct TrainOptions {
  ConfigOptions config;
  std::string resume;
  std::vector<std::string> accepted;
  std::vector<int64_t> rows;
  bool dry_run = false, print_config = false, print_schema = false;
};

// One JSON object a row; null for what is not finite.
void show_rows(const std::vector<RowReplay>& rows) {
  const auto number = [](double x) { return std::isfinite(x) ? Value(x) : Value(); };
  for (const RowReplay& row : rows)
    fmt::print("{}\n", dump_json(Value::Object{{"row", row.row},
                                               {"place", row.place},
                                               {"tokens", row.tokens},
                                               {"trained_tokens", row.trained_tokens},
                                               {"loss", number(row.loss)},
                                               {"grad_norm", number(row.grad_norm)}}));
}

void train(const TrainOptions& options, bool resume) {
  if (options.print_schema) {
    fmt::print("{}\n", dump_json(run_config_schema(), 2));
    return;
  }
  const RunConfig config = resolve(options.config);
  if (options.print_config) {
    fmt::print("{}\n", dump_json(to_value(config), 2));
    return;
  }
  if (options.dry_run) {
    log::info("memory plan\n{}", PlannedRun(config).forecast(0).text());
    return;
  }
  RunOptions run;
  if (resume) run.resume = options.resume;
  run.accepted.insert(options.accepted.begin(), options.accepted.end());
  if (!options.rows.empty()) return show_rows(replay_rows(config, run, options.rows));
  const RunSummary summary = run_training(config, run);
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
  add_config_options(*command, options->config);
  CLI::Option* resume =
      command
          ->add_option("--resume", options->resume,
                       "Continue the run: from its newest checkpoint, or from this one")
          ->expected(0, 1);
  command
      ->add_option("--accept-changed", options->accepted,
                   "With --resume: what may differ from the run that saved the checkpoint")
      ->check(CLI::IsMember({"model", "data", "text", "config", "plan"}))
      ->needs(resume);
  command
      ->add_option("--rows", options->rows,
                   "Train nothing: the loss and gradient of these rows, from 0, each alone")
      ->delimiter(',')
      ->type_name("N,...");
  command->add_flag("--dry-run", options->dry_run,
                    "Check model and data, print the memory plan, train nothing");
  command->add_flag("--print-config", options->print_config, "Print the resolved config and stop");
  command->add_flag("--print-schema", options->print_schema,
                    "Print the JSON schema of run configs and stop");
  command->callback([options, resume] { train(*options, resume->count() > 0); });
}

}  // namespace lema
