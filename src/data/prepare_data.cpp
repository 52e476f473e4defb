// Loads, splits and compares the data sets of a run.
#include "data/prepare_data.h"

#include <algorithm>
#include <cmath>
#include <unordered_set>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/log.h"
#include "data/dataset_cache.h"
#include "formats/json.h"
#include "text/unicode.h"

namespace lema {
namespace {

// Length and time of the last change: a file that changes while it is read must not be cached.
std::string state_of(const std::vector<std::string>& paths) {
  std::string state;
  for (const std::string& path : data_files(paths)) {
    std::error_code error;
    const auto time = fs::last_write_time(path, error).time_since_epoch().count();
    const auto bytes = fs::file_size(path, error);
    state += fmt::format("{} {} {}\n", path, bytes, time);
  }
  return state;
}

Dataset load(const std::vector<std::string>& paths, const RunConfig::Data& options,
             const fs::path& folder, const ModelText& text) {
  if (folder.empty()) return load_dataset(paths, options, text);
  const std::string before = state_of(paths), key = dataset_key(paths, options, text);
  if (key.empty()) return load_dataset(paths, options, text);
  if (auto cached = read_cached(folder, key, paths)) {
    log::info("{}: from the cache {}", cached->path, folder.string());
    report(*cached, options.max_tokens);
    return std::move(*cached);
  }
  Dataset dataset = load_dataset(paths, options, text);
  if (state_of(paths) == before) write_cached(folder, key, dataset);
  return dataset;
}

// Moves the rows of the lowest ceil(fraction n) of the n contents: a share of every set, however
// small.
Dataset split_off(Dataset& train, double fraction) {
  std::vector<uint64_t> contents;
  for (const Row& row : train.rows) contents.push_back(row.content);
  std::sort(contents.begin(), contents.end());
  contents.erase(std::unique(contents.begin(), contents.end()), contents.end());
  constexpr double kRounding = 1e-9;  // of fraction times n, where that is a whole number
  const double share = std::ceil(fraction * static_cast<double>(contents.size()) - kRounding);
  const auto is_taken = [&](const Row& row) {
    return row.content <= contents[static_cast<size_t>(share) - 1];
  };
  const auto kept = std::stable_partition(train.rows.begin(), train.rows.end(),
                                          [&](const Row& row) { return !is_taken(row); });
  Dataset eval;
  eval.files = train.files;
  eval.path = train.path;
  eval.format = train.format;
  eval.rows.assign(std::make_move_iterator(kept), std::make_move_iterator(train.rows.end()));
  train.rows.erase(kept, train.rows.end());
  if (eval.rows.empty() || train.rows.empty())
    fail(ErrorCode::BadInput, "{}: data.eval_fraction {} of its {} rows leaves {} without rows",
         train.path, fraction, train.rows.size() + eval.rows.size(),
         eval.rows.empty() ? "the evaluation" : "the training");
  recount(train);
  recount(eval);
  log::info("{}: {} rows are trained, {} evaluated", train.path, train.rows.size(),
            eval.rows.size());
  return eval;
}

void warn_of_common_rows(const PreparedData& data) {
  std::unordered_set<uint64_t> trained;
  for (const Row& row : data.train.rows) trained.insert(row.content);
  const auto common = std::count_if(data.eval->rows.begin(), data.eval->rows.end(),
                                    [&](const Row& row) { return trained.contains(row.content); });
  if (common > 0)
    log::warn("{} of {} evaluation rows are training rows too", common, data.eval->rows.size());
}

void warn_of_dates(const Dataset& dataset, const ModelText& text) {
  if (!text.renders_date() || dataset.format == "text" || dataset.format == "tokens") return;
  log::warn(
      "{}: the chat template {} can ask for today's date (strftime_now): each conversation then "
      "holds the day on which it was read, so none is kept in the cache; if the template takes the "
      "date as a variable, set it in data.chat_template_kwargs",
      dataset.path, text.template_origin());
}

void append_bad_rows(std::string& lines, const Dataset& dataset) {
  for (const BadRow& bad : dataset.bad) {
    std::vector<int64_t> origin;
    const Value line = Value::Object{{"reason", replace_invalid_utf8(bad.reason, origin)},
                                     {"text", replace_invalid_utf8(bad.text, origin)}};
    lines += dump_json(line) + "\n";
  }
}

}  // namespace

PreparedData prepare_data(const RunConfig::Data& options, const fs::path& cache,
                          const ModelText& text) {
  if (!options.eval.empty() && options.eval_fraction > 0)
    fail(ErrorCode::Usage, "data.eval and data.eval_fraction both name evaluation rows; give one");
  PreparedData data;
  data.train = load(options.train, options, cache, text);
  warn_of_dates(data.train, text);
  if (options.eval_fraction > 0) {
    data.eval = split_off(data.train, options.eval_fraction);
  } else if (!options.eval.empty()) {
    data.eval = load(options.eval, options, cache, text);
    warn_of_common_rows(data);
  }
  compact(data.train);
  if (data.eval) compact(*data.eval);
  return data;
}

fs::path cache_folder(const RunConfig::Data& options, const fs::path& output_dir) {
  if (options.cache == "off") return {};
  if (options.cache != "auto") return options.cache;
  fs::path run = fs::absolute(output_dir).lexically_normal();
  if (!run.has_filename()) run = run.parent_path();  // written with a slash at the end
  return run.parent_path() / ".lema-cache";
}

void write_bad_rows(const PreparedData& data, const fs::path& path) {
  std::string lines;
  append_bad_rows(lines, data.train);
  if (data.eval) append_bad_rows(lines, *data.eval);
  if (!lines.empty()) write_file(path, lines);
}

}  // namespace lema
