// `lema data`: what a data set holds, what of it is trained and what is wrong with it, before any
// training. Reads the same config as `lema train`; the work is data/prepare_data.
#include <algorithm>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "cli/commands.h"
#include "cli/options.h"
#include "cli/token_paint.h"
#include "data/prepare_data.h"
#include "formats/hf_model.h"
#include "formats/json.h"

namespace lema {
namespace {

struct DataOptions {
  ConfigOptions config;
  int64_t examples = 3;
  std::string rows;  // a file
  bool json = false;
};

// Lengths of rows: exact order statistics, and how many fall below each power of two.
struct Lengths {
  int64_t shortest = 0, median = 0, p95 = 0, longest = 0;
  std::vector<int64_t> histogram;  // [k]: rows of 2^k up to 2^(k+1) - 1 tokens
};

Lengths lengths_of(const Dataset& dataset) {
  std::vector<int64_t> all;
  for (const Row& row : dataset.rows) all.push_back(std::ssize(row.ids));
  std::sort(all.begin(), all.end());
  const auto quantile = [&](size_t percent) {  // the nearest rank
    return all[std::max<size_t>((all.size() * percent + 99) / 100, 1) - 1];
  };
  Lengths lengths{all.front(), quantile(50), quantile(95), all.back(), {}};
  for (const int64_t length : all) {
    size_t k = 0;
    while ((int64_t{2} << k) <= length) ++k;
    if (lengths.histogram.size() <= k) lengths.histogram.resize(k + 1);
    ++lengths.histogram[k];
  }
  return lengths;
}

Value to_value(const Dataset& dataset) {
  const Lengths lengths = lengths_of(dataset);
  Value::Array files, histogram;
  for (const DataFile& file : dataset.files) {
    const auto rows = std::count_if(dataset.rows.begin(), dataset.rows.end(), [&](const Row& row) {
      return &dataset.files[static_cast<size_t>(row.file)] == &file;
    });
    files.push_back(Value::Object{{"path", file.path},
                                  {"format", file.format},
                                  {"verdict", file.verdict},
                                  {"rows", int64_t{rows}}});
  }
  for (const int64_t rows : lengths.histogram) histogram.emplace_back(rows);
  return Value::Object{{"files", std::move(files)},
                       {"rows", int64_t{std::ssize(dataset.rows)}},
                       {"tokens", dataset.tokens},
                       {"trained_tokens", dataset.trained_tokens},
                       {"shortest", lengths.shortest},
                       {"median", lengths.median},
                       {"p95", lengths.p95},
                       {"longest", lengths.longest},
                       {"histogram", std::move(histogram)},
                       {"repeated_rows", dataset.repeated_rows},
                       {"dropped_rows", dataset.dropped_rows},
                       {"truncated_rows", dataset.truncated_rows},
                       {"cut_tokens", dataset.cut_tokens},
                       {"endless_rows", dataset.endless_rows},
                       {"bad_rows", int64_t{std::ssize(dataset.bad)}}};
}

void print_lengths(const Dataset& dataset) {
  constexpr int64_t kBarWidth = 40;
  const Lengths lengths = lengths_of(dataset);
  fmt::print("  tokens of a row: {} to {}, median {}, 95 % up to {}\n", lengths.shortest,
             lengths.longest, lengths.median, lengths.p95);
  const int64_t most = *std::max_element(lengths.histogram.begin(), lengths.histogram.end());
  for (size_t k = 0; k < lengths.histogram.size(); ++k) {
    const int64_t rows = lengths.histogram[k];
    if (rows == 0) continue;
    const auto width = static_cast<size_t>(std::max<int64_t>(rows * kBarWidth / most, 1));
    fmt::print("  {:>8} .. {:>8} {:>8} {}\n", int64_t{1} << k, (int64_t{2} << k) - 1, rows,
               std::string(width, '#'));
  }
}

// The first rows that repeat an earlier one, both by file and line.
void print_repeats(const Dataset& dataset) {
  constexpr int kShown = 5;
  std::unordered_map<uint64_t, const Row*> first;
  int shown = 0;
  for (const Row& row : dataset.rows) {
    const auto [earlier, is_first] = first.try_emplace(row.content, &row);
    if (is_first) continue;
    if (++shown > kShown) break;
    fmt::print("  {} repeats {}\n", dataset.place(row), dataset.place(*earlier->second));
  }
  if (dataset.repeated_rows > kShown)
    fmt::print("  ... and {} more\n", dataset.repeated_rows - kShown);
}

void print_set(const char* title, const Dataset& dataset) {
  fmt::print(
      "{}: {} rows, {} tokens, {} trained ({:.1f} %)\n", title, dataset.rows.size(), dataset.tokens,
      dataset.trained_tokens,
      100.0 * static_cast<double>(dataset.trained_tokens) / static_cast<double>(dataset.tokens));
  for (const DataFile& file : dataset.files) fmt::print("  {}: {}\n", file.path, file.verdict);
  print_lengths(dataset);
  fmt::print("  {} rows repeat an earlier row; {} dropped and {} cut as too long; {} skipped\n",
             dataset.repeated_rows, dataset.dropped_rows, dataset.truncated_rows,
             dataset.bad.size());
  print_repeats(dataset);
}

// The first, the middle and the last row, or more, evenly spread.
void print_examples(const Dataset& dataset, const ModelText& text, int64_t wanted) {
  const int64_t rows = std::ssize(dataset.rows), count = std::min(wanted, rows);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t at = count == 1 ? 0 : i * (rows - 1) / (count - 1);
    const Row& row = dataset.rows[static_cast<size_t>(at)];
    fmt::print("\n{} ({} tokens, {} trained)\n{}\n", dataset.place(row), row.ids.size(),
               std::count(row.trained.begin(), row.trained.end(), 1),
               paint_tokens(row.ids, row.trained, text.tokenizer(), paints_output()));
  }
}

// One object a row: what an own check of masks and ids reads.
void write_rows(const PreparedData& data, const fs::path& path) {
  std::string lines;
  for (const Dataset* dataset : {&data.train, data.eval ? &*data.eval : nullptr}) {
    if (!dataset) continue;
    for (const Row& row : dataset->rows) {
      const Value line = Value::Object{{"set", dataset == &data.train ? "train" : "eval"},
                                       {"file", dataset->files[static_cast<size_t>(row.file)].path},
                                       {"line", row.line},
                                       {"ids", to_array(row.ids)},
                                       {"trained", to_array(row.trained)}};
      lines += dump_json(line) + "\n";
    }
  }
  write_file(path, lines);
}

void show_data(const DataOptions& options) {
  const RunConfig config = resolve(options.config);
  const ModelFolder folder(config.model);
  const ModelText text = load_model_text(folder, config.data.chat_template,
                                         Value(Value::Object(config.data.chat_template_kwargs)));
  // Never from the cache: what is shown is what the files say.
  const PreparedData data = prepare_data(config.data, {}, text);
  if (!options.rows.empty()) write_rows(data, options.rows);
  if (options.json) {
    Value summary = Value::Object{{"train", to_value(data.train)}};
    if (data.eval) summary.set("eval", to_value(*data.eval));
    fmt::print("{}\n", dump_json(summary));
    return;
  }
  print_set("training", data.train);
  if (data.eval) print_set("evaluation", *data.eval);
  print_examples(data.train, text, options.examples);
}

}  // namespace

void add_data(CLI::App& app) {
  const auto options = std::make_shared<DataOptions>();
  CLI::App* command = app.add_subcommand("data", "What a data set holds and what of it is trained");
  add_config_options(*command, options->config);
  command->add_option("--examples", options->examples, "Rows to show, trained tokens coloured")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str();
  command
      ->add_option("--rows", options->rows,
                   "Write every row's token ids and label mask here, one JSON object a line")
      ->type_name("FILE");
  command->add_flag("--json", options->json, "Print the figures as JSON");
  command->callback([options] { show_data(*options); });
}

}  // namespace lema
