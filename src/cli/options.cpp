// Parsing of the options that several commands take.
#include "cli/options.h"

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

void add_model_options(CLI::App& command, std::string& model, OpenOptions& options) {
  command.add_option("--model", model, "Model folder")->required()->type_name("DIR");
  command
      .add_option("--adapter", options.adapter,
                  "PEFT adapter folder, or a checkpoint of lema train")
      ->type_name("DIR");
  command.add_option("--compute", options.compute, "Activations: auto, f32 or bf16 [auto]")
      ->check(CLI::IsMember({"auto", "f32", "bf16"}));
  command.add_option("--threads", options.threads, "CPU threads [all]")->check(CLI::PositiveNumber);
}

}  // namespace lema
