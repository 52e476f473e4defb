// `lema plan`: the memory table and the predicted step time of a run, and the settings with which
// it takes less. The work is train/plan_training.
#include <memory>
#include <string>

#include "cli/commands.h"
#include "cli/options.h"
#include "formats/json.h"
#include "train/plan_training.h"

namespace lema {
namespace {

// For rates that this machine's cache lacks.
constexpr double kMeasureSeconds = 10;

struct PlanOptions {
  ConfigOptions config;
  std::string fit;
  bool json = false;
};

Value to_value(const FitResult& found, const FitGoal& goal) {
  Value changes = Value::Object();
  for (const auto& [key, value] : found.changes) changes.set(key, value);
  return Value::Object{
      {"limit", goal.limit}, {"amount", found.amount}, {"changes", std::move(changes)}};
}

void show_fit(const PlanOptions& options, const RunConfig& config) {
  const FitGoal goal = parse_fit_goal(options.fit);
  const FitResult found = PlannedRun(config).fit(goal, kMeasureSeconds);
  if (!found.fits)
    fail(ErrorCode::DoesNotFit, "no smaller batch reaches {}: the least is {}{}{}", options.fit,
         describe(goal, found.amount), found.changes.empty() ? "" : ", with ",
         to_string(found.changes));
  if (options.json) {
    fmt::print("{}\n", dump_json(to_value(found, goal), 2));
    return;
  }
  if (found.changes.empty()) {
    fmt::print("fits as it is: {}\n", describe(goal, found.amount));
    return;
  }
  fmt::print("{} with", describe(goal, found.amount));
  for (const auto& [key, value] : found.changes) fmt::print(" --set {}={}", key, value);
  fmt::print("\n");
}

void show_plan(const PlanOptions& options) {
  const RunConfig config = resolve(options.config);
  if (!options.fit.empty()) return show_fit(options, config);
  const Forecast forecast = PlannedRun(config).forecast(kMeasureSeconds);
  if (options.json)
    fmt::print("{}\n", dump_json(forecast.to_value(), 2));
  else
    fmt::print("{}", forecast.text());
}

}  // namespace

void add_plan(CLI::App& app) {
  const auto options = std::make_shared<PlanOptions>();
  CLI::App* command =
      app.add_subcommand("plan", "What a run will hold in memory and how long a step will take");
  add_config_options(*command, options->config);
  command
      ->add_option("--fit", options->fit,
                   "Name the settings nearest to the config's that stay within vram=SIZE, ram=SIZE "
                   "or step_ms=NUMBER")
      ->type_name("KEY=VALUE");
  command->add_flag("--json", options->json, "Print JSON, as plan.json has it");
  command->callback([options] { show_plan(*options); });
}

}  // namespace lema
