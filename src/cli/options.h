// Options that several commands take.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "formats/run_config.h"
#include "generate/opened_model.h"

namespace lema {

// --dtype bf16|f16|f32.
void add_float_dtype(CLI::App& command, const std::string& help);
// nullopt when it was not given.
std::optional<DType> float_dtype(const CLI::App& command);

// --device, of the names that a config takes.
CLI::Option* add_device_option(CLI::App& command);

// --model, --adapter, --compute, --device, --ram, --threads and --chat-template of the commands that
// run a model.
void add_model_options(CLI::App& command);
// All of them but --model and --chat-template.
OpenOptions open_options(const CLI::App& command);
// --chat-template, else the template that the adapter brings along (said in the log); "": the
// model's own.
std::string chat_template_option(const CLI::App& command);

// How a command is told its run config: a file, or model and data alone, and settings over them.
struct ConfigOptions {
  std::string config, model, data;
  std::vector<std::string> settings;
};
// `options` must outlive the command.
void add_config_options(CLI::App& command, ConfigOptions& options);
RunConfig resolve(const ConfigOptions& options);

// At most a few a CPU: each takes memory, and every piece of work wakes all. Warns where they are
// more than the CPUs.
int64_t usable_threads(int64_t threads);

}  // namespace lema
