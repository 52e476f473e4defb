// `lema convert`: a Hugging Face folder or a GGUF file into the folder that training streams from.
#include <cstdio>
#include <string>

#include "cli/commands.h"
#include "cli/options.h"
#include "cli/progress_line.h"
#include "convert/convert.h"
#include "core/error.h"
#include "core/signals.h"
#include "core/units.h"

namespace lema {
namespace {

void run_convert(const ConvertOptions& options) {
  const StopSignals signals;
  ProgressLine line;
  const ConvertResult result = convert(options, std::ref(line));
  fmt::print("{}: {} tensors, {}\n", options.output.string(), result.tensors,
             format_bytes(result.bytes));
}

}  // namespace

void add_convert(CLI::App& app) {
  auto& command = *app.add_subcommand(
      "convert", "A Hugging Face folder or a GGUF file into a folder lema can stream");
  command.add_option("SRC", "Model folder, or a .gguf file")->required()->type_name("PATH");
  command.add_option("OUT", "Folder to write; must not exist")->required()->type_name("DIR");
  add_float_dtype(command,
                  "Type of every tensor (default: as stored; quantised GGUF types as f32)");
  command.callback([&command] {
    run_convert({command["SRC"]->as<std::string>(), command["OUT"]->as<std::string>(),
                 float_dtype(command)});
  });
}

}  // namespace lema
