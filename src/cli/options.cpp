// Parsing of the options that several commands take.
#include "cli/options.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "core/log.h"
#include "core/thread_pool.h"
#include "core/units.h"
#include "formats/peft_adapter.h"
#include "formats/run_options.h"

namespace lema {

void add_float_dtype(CLI::App& command, const std::string& help) {
  command.add_option("--dtype", help)
      ->check(CLI::IsMember({"bf16", "f16", "f32"}))
      ->type_name("TYPE");
}

std::optional<DType> float_dtype(const CLI::App& command) {
  if (command.count("--dtype") == 0) return std::nullopt;
  const auto value = command.get_option("--dtype")->as<std::string>();
  return value == "bf16" ? DType::BF16 : value == "f16" ? DType::F16 : DType::F32;
}

CLI::Option* add_device_option(CLI::App& command) {
  const auto check = [](const std::string& text) {
    return is_choice(kDeviceNames, text)
               ? std::string()
               : fmt::format("{} not in {{{}}}", text, fmt::join(kDeviceNames, ","));
  };
  return command.add_option("--device", "auto: the first GPU where there is one")
      ->check(CLI::Validator(check, fmt::format("{{{}}}", fmt::join(kDeviceNames, ","))));
}

void add_model_options(CLI::App& command) {
  command.add_option("--model", "Model folder")->required()->type_name("DIR");
  command.add_option("--adapter", "PEFT adapter folder, or a checkpoint of lema train")
      ->type_name("DIR");
  command
      .add_option("--compute",
                  "Activations; auto: bf16 on a GPU, and for bf16 weights where the CPU is faster "
                  "at it")
      ->check(CLI::IsMember({"auto", "f32", "bf16", "f16"}))
      ->default_str("auto");
  add_device_option(command)->default_str("auto");
  command.add_option("--ram", "Host memory for a GPU's weights (default: what the machine has)")
      ->type_name("SIZE")
      ->check(CLI::Validator(
          [](const std::string& text) {
            return parse_bytes(text).value_or(0) > 0 ? std::string()
                                                     : text + " is no size, such as 3GB or 2GiB";
          },
          ""));
  command.add_option("--threads", "CPU threads, 0: all")
      ->check(CLI::Range(0, 1024))
      ->default_str("0");
  command.add_option("--chat-template",
                     "Template file, chatml or llama3 (default: the adapter's, else the model's)");
}

OpenOptions open_options(const CLI::App& command) {
  OpenOptions options;
  options.adapter = command.get_option("--adapter")->as<std::string>();
  options.compute = command.get_option("--compute")->as<std::string>();
  options.device = command.get_option("--device")->as<std::string>();
  if (command.count("--ram") > 0)
    options.ram_bytes = *parse_bytes(command.get_option("--ram")->as<std::string>());
  options.threads = usable_threads(command.get_option("--threads")->as<int64_t>());
  return options;
}

std::string chat_template_option(const CLI::App& command) {
  const auto given = command.get_option("--chat-template")->as<std::string>();
  const auto adapter = command.get_option("--adapter")->as<std::string>();
  if (!given.empty() || adapter.empty()) return given;
  const auto path = adapter_template(adapter);
  if (!path) return "";
  log::info("{}: the chat template is the adapter's", path->string());
  return path->string();
}

void add_config_options(CLI::App& command, ConfigOptions& options) {
  command.add_option("model", options.model, "Model folder (instead of the config's)");
  command.add_option("data", options.data,
                     "Training rows, a file or a folder (instead of the config's)");
  command.add_option("--config,-c", options.config, "Run config, JSON or TOML");
  command
      .add_option("--set", options.settings,
                  "KEY=VALUE over the config, e.g. --set optimizer.lr=1e-4")
      ->take_all()
      ->allow_extra_args(false);
}

RunConfig resolve(const ConfigOptions& options) {
  std::vector<std::string> settings;
  if (!options.model.empty()) settings.push_back("model=" + options.model);
  if (!options.data.empty()) settings.push_back("data.train=" + options.data);
  if (options.config.empty() && !options.data.empty()) settings.push_back("output_dir=lema-run");
  settings.insert(settings.end(), options.settings.begin(), options.settings.end());
  RunConfig config = options.config.empty() ? make_run_config(settings)
                                            : load_run_config(options.config, settings);
  config.threads = usable_threads(config.threads);
  return config;
}

int64_t usable_threads(int64_t threads) {
  constexpr int64_t kMostPerCpu = 4;
  const int64_t cpus = available_cpus(), most = std::min(threads, kMostPerCpu * cpus);
  if (threads > cpus)
    log::warn("{} threads on {} CPUs: {} are started, and no more than {} are of use", threads,
              cpus, most, cpus);
  return most;
}

}  // namespace lema
