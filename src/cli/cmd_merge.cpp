// `lema merge`: a base model and an adapter into one model folder.
#include <cstdio>
#include <string>

#include "cli/commands.h"
#include "cli/options.h"
#include "cli/progress_line.h"
#include "convert/merge.h"
#include "core/error.h"
#include "core/signals.h"
#include "core/units.h"

namespace lema {
namespace {

int64_t shard_bytes(const CLI::App& command) {
  if (command.count("--shard-size") == 0) return 0;
  const auto text = command.get_option("--shard-size")->as<std::string>();
  const int64_t bytes = parse_bytes(text).value_or(0);
  if (bytes <= 0)
    fail(ErrorCode::Usage, "--shard-size: found \"{}\", expected a size such as 5GB",
         escaped(text));
  return bytes;
}

void run_merge(const MergeOptions& options) {
  const StopSignals signals;
  ProgressLine line;
  const MergeResult result = merge(options, std::ref(line));
  fmt::print("{}: {} tensors, {} in {} {}; {} merged\n", options.output.string(), result.tensors,
             format_bytes(result.bytes), result.shards, result.shards == 1 ? "file" : "files",
             result.adapted);
  fmt::print("largest change: max |dW| / max |W| = {:.3g} ({})\n", result.largest_change,
             result.most_changed);
  fmt::print("rounding: RMS {:.3g}; of the change itself: {:.3g}\n", result.rounding_rms,
             result.change_rms);
  if (result.verified)
    fmt::print(
        "verified on {} tokens: logits differ by {:.3g} at most, relative RMS {:.3g} (tolerance "
        "{:.3g}; the adapter "
        "itself: {:.3g})\n",
        result.verified->tokens, result.verified->max_abs, result.verified->relative_rms,
        result.verified->tolerance, result.verified->adapter_rms);
}

}  // namespace

void add_merge(CLI::App& app) {
  auto& command =
      *app.add_subcommand("merge", "A base model and a LoRA adapter into one Hugging Face folder");
  command.add_option("--model", "Base model folder")->required()->type_name("DIR");
  command.add_option("--adapter", "PEFT adapter folder, or a checkpoint of lema train")
      ->required()
      ->type_name("DIR");
  command.add_option("--output", "Folder to write; must not exist")->required()->type_name("DIR");
  add_float_dtype(command, "Type of every tensor (default: as stored)");
  command.add_option("--shard-size", "Largest file, e.g. 5GB (default: one file)")
      ->type_name("SIZE");
  command.add_flag("--verify")
      ->description(
          "Compare the logits of base and adapter with those of the merged weights first");
  command.callback([&command] {
    run_merge({command["--model"]->as<std::string>(), command["--adapter"]->as<std::string>(),
               command["--output"]->as<std::string>(), float_dtype(command), shard_bytes(command),
               command.count("--verify") > 0});
  });
}

}  // namespace lema
