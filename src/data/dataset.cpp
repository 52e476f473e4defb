// Walks the records of data files, collects the reasons of bad rows instead of stopping at the
// first, applies the length rules and says what was found.
#include "data/dataset.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <set>
#include <unordered_set>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "core/memory.h"
#include "data/record_reader.h"

namespace lema {
namespace {

constexpr size_t kReasonsShown = 20;
// Of a file that is nothing but wrong rows: more are not counted, so that it costs a second at
// most.
constexpr int64_t kBadRowsCounted = 100'000;
constexpr size_t kFieldsShown = 10;
constexpr size_t kBadTextKept = 64 << 10;

std::string fields_of(const Value& row) {
  std::vector<std::string> names;
  for (const auto& [key, value] : row.as_object()) {
    if (names.size() == kFieldsShown) break;
    names.push_back(escaped(key));
  }
  if (names.empty()) return "no fields";
  const size_t more = row.as_object().size() - names.size();
  return fmt::format("fields {}{}", fmt::join(names, ", "),
                     more > 0 ? fmt::format(" and {} more", more) : "");
}

// "train", "test" ...: the split that a file is named as, by the first or the last word of its
// name; "train" where it is named as none.
std::string split_of(const fs::path& path) {
  constexpr std::array<std::string_view, 6> kOthers = {"valid", "validation", "val",
                                                       "test",  "eval",       "dev"};
  std::string name = path.filename().string();
  name.resize(name.find('.', 1) == name.npos ? name.size() : name.find('.', 1));
  for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  const std::string ends = "-_ ";
  const std::string first = name.substr(0, name.find_first_of(ends));
  const std::string last = name.substr(name.find_last_of(ends) + 1);
  for (const std::string_view other : kOthers)
    if (first == other || last == other) return std::string(other);
  return "train";
}

// One folder is one set of rows: neither several splits of it nor files of several kinds.
void refuse_mixed(const std::vector<std::string>& files, const std::string& folder) {
  const auto refuse = [&](const std::string& a, const std::string& b, const char* why) {
    fail(ErrorCode::BadInput,
         "{}: holds {} and {}, {}; name the files in data.train and data.eval instead of the "
         "folder",
         folder, fs::path(a).filename().string(), fs::path(b).filename().string(), why);
  };
  for (const std::string& file : files) {
    if (split_of(file) != split_of(files[0])) refuse(files[0], file, "which are several splits");
    if (record_kind(file) != record_kind(files[0]))
      refuse(files[0], file, "files of several kinds");
  }
}

class Loader {
 public:
  Loader(const std::vector<std::string>& paths, const RunConfig::Data& options,
         const ModelText& text)
      : options_(options), text_(text), map_used_(options.map.size()) {
    check_map(options.map);
    for (std::string& path : data_files(paths)) dataset_.files.push_back({std::move(path), "", ""});
    dataset_.path = dataset_.files.front().path;
    if (dataset_.files.size() > 1)
      dataset_.path += fmt::format(" and {} more", dataset_.files.size() - 1);
  }

  Dataset load() {
    for (size_t i = 0; i < dataset_.files.size(); ++i) read_file(static_cast<int32_t>(i));
    refuse_bad_rows();
    refuse_idle_map();
    for (const DataFile& file : dataset_.files) {
      if (file.format.empty()) continue;
      dataset_.format =
          dataset_.format.empty() || dataset_.format == file.format ? file.format : "mixed";
    }
    recount(dataset_);
    report(dataset_, options_.max_tokens);
    report_skipped();
    return std::move(dataset_);
  }

 private:
  void read_file(int32_t index) {
    DataFile& file = dataset_.files[static_cast<size_t>(index)];
    if (options_.format != "auto") take_format(file, options_.format);
    unread_.clear();
    RecordReader reader(file.path);
    file.verdict = name(reader.format());
    if (!file.format.empty()) file.verdict += fmt::format(", {} by data.format", file.format);
    Record record;
    while (reader.next(record)) {
      StopSignals::check();
      ++row_count_;
      if (!record.reason.empty()) {
        note_bad(record.reason, record);
        continue;
      }
      try {
        take(record, file, index);
      } catch (const Error& error) {
        if (error.code() != ErrorCode::BadInput) throw;
        note_bad(fmt::format("{}:{}:{}: {}", file.path, record.line, record.column, error.what()),
                 record);
      }
    }
  }

  void note_bad(std::string reason, const Record& record) {
    ++bad_rows_;
    if (reasons_.size() < kReasonsShown) reasons_.push_back(reason);
    if (options_.bad_rows == "skip" && bad_rows_ <= options_.max_bad_rows)
      dataset_.bad.push_back({std::move(reason), record.text.substr(0, kBadTextKept)});
    if (bad_rows_ > std::max(kBadRowsCounted, options_.max_bad_rows)) refuse_bad_rows("the first ");
  }

  void take(const Record& record, DataFile& file, int32_t index) {
    if (!record.value.is_object())
      fail(ErrorCode::BadInput, "found {}, expected object", name(record.value.kind()));
    const Value object = apply_map(record.value, options_.map, map_used_);
    if (file.format.empty()) detect(object, file, record.line);
    note_unread(object, file);
    const uint64_t content = row_content(object);
    for (Row& row : encode_row(file.format, object, options_, text_)) {
      row.line = record.line;
      row.file = index;
      row.content = content;
      if (!fit(row, is_dialogue(file.format, object))) continue;
      for (size_t remark = 0; remark < kRemarkTexts.size(); ++remark)
        dataset_.remarked_rows[remark] += row.remarks.has(remark);
      dataset_.rows.push_back(std::move(row));
    }
  }

  // Fields that no shape has are said once for each file: another name for one of ours, perhaps.
  void note_unread(const Value& object, DataFile& file) {
    for (const auto& [key, value] : object.as_object())
      if (!is_read(key) && unread_.size() < kFieldsShown && unread_.insert(key).second)
        file.verdict +=
            fmt::format("{}{}", unread_.size() == 1 ? "; not used: " : ", ", escaped(key));
  }

  // Applies the length rules; false when the row is dropped.
  bool fit(Row& row, bool must_stop) {
    const auto count = std::ssize(row.ids);
    const bool too_long = count > options_.max_tokens;
    if (too_long && options_.too_long == "error")
      fail(ErrorCode::BadInput,
           "{} tokens, data.max_tokens is {} (data.too_long: drop or truncate)", count,
           options_.max_tokens);
    if (too_long && options_.too_long == "drop") {
      ++dataset_.dropped_rows;
      return false;
    }
    bool loses_end = false;
    if (too_long) {
      const auto end = row.trained.begin() + options_.max_tokens;
      loses_end = std::find(end, row.trained.end(), 1) != row.trained.end();
      row.ids.resize(static_cast<size_t>(options_.max_tokens));
      row.trained.resize(row.ids.size());
    }
    if (!row.trained.empty()) row.trained[0] = 0;
    if (std::find(row.trained.begin(), row.trained.end(), 1) == row.trained.end())
      fail(ErrorCode::BadInput, "no trained token among {}{}", row.ids.size(),
           too_long ? fmt::format(" (after truncation from {})", count) : "");
    if (too_long && must_stop && !trains_stop(row))
      fail(ErrorCode::BadInput,
           "no trained stop token is left of {} tokens cut to data.max_tokens {} (data.too_long = "
           "drop leaves such rows out)",
           count, options_.max_tokens);
    if (too_long) {
      ++dataset_.truncated_rows;
      dataset_.cut_tokens += count - options_.max_tokens;
      dataset_.endless_rows += loses_end;
    }
    return true;
  }

  void detect(const Value& object, DataFile& file, int64_t line) {
    const auto shape = detect_shape(object);
    if (!shape)
      fail(ErrorCode::BadInput,
           "found {}, expected \"messages\", \"conversations\", \"prompt\" and \"completion\", "
           "\"instruction\" and \"output\", \"text\", \"tokens\" or \"input_ids\" (or names in "
           "data.map)",
           fields_of(object));
    take_format(file, shape->format);
    file.verdict += fmt::format(", {} {} of line {}", shape->format, shape->reason, line);
    if (text_.has_template() && (shape->format == "text" || shape->format == "completion") &&
        !is_dialogue(shape->format, object))
      file.verdict += ", as it stands: without the chat template";
  }

  void take_format(DataFile& file, const std::string& format) const {
    file.format = format;
    if (options_.append_eos && format != "text" && format != "completion")
      fail(ErrorCode::Usage,
           "data.append_eos applies to formats text and completion; the format of {} is {}",
           file.path, format);
  }

  // `which`: of the rows that were read so far.
  void refuse_bad_rows(std::string_view which = "") const {
    const bool skips = options_.bad_rows == "skip";
    if (bad_rows_ > (skips ? options_.max_bad_rows : 0))
      fail(ErrorCode::BadInput, "{}: {} of {}{} rows cannot be used{}:\n{}{}", dataset_.path,
           bad_rows_, which, row_count_,
           skips ? fmt::format(", data.max_bad_rows is {}", options_.max_bad_rows) : "",
           fmt::join(reasons_, "\n"),
           bad_rows_ > std::ssize(reasons_)
               ? fmt::format("\n... and {} more", bad_rows_ - std::ssize(reasons_))
               : "");
    if (!dataset_.rows.empty()) return;
    if (row_count_ == 0)
      fail(ErrorCode::BadInput, "{}: {}", dataset_.path,
           dataset_.files.size() > 1 ? "the files have no rows" : "the file has no rows");
    if (bad_rows_ > 0)
      fail(ErrorCode::BadInput, "{}: no row is left: {} of {} cannot be used:\n{}", dataset_.path,
           bad_rows_, row_count_, fmt::join(reasons_, "\n"));
    fail(ErrorCode::BadInput, "{}: all {} rows are longer than data.max_tokens {}", dataset_.path,
         row_count_, options_.max_tokens);
  }

  void refuse_idle_map() const {
    for (size_t i = 0; i < options_.map.size(); ++i)
      if (!map_used_[i])
        fail(ErrorCode::Usage, "data.map.{}: no row of {} has a field or role \"{}\"",
             options_.map[i].first, dataset_.path, escaped(options_.map[i].second));
  }

  void report_skipped() const {
    if (bad_rows_ == 0) return;
    log::warn("{}: {} of {} rows skipped:", dataset_.path, bad_rows_, row_count_);
    for (const std::string& reason : reasons_) log::warn("{}", reason);
  }

  const RunConfig::Data& options_;
  const ModelText& text_;
  Dataset dataset_;
  std::vector<uint8_t> map_used_;
  std::set<std::string> unread_;  // fields of the file that is read
  int64_t row_count_ = 0, bad_rows_ = 0;
  std::vector<std::string> reasons_;
};

}  // namespace

std::string Dataset::place(const Row& row) const {
  return fmt::format("{}:{}", files.at(static_cast<size_t>(row.file)).path, row.line);
}

std::vector<std::string> data_files(std::span<const std::string> paths) {
  std::vector<std::string> files;
  for (const std::string& path : paths) {
    std::error_code error;
    if (!fs::is_directory(path, error)) {
      files.push_back(path);
      continue;
    }
    std::vector<std::string> found;
    for (const auto& entry : fs::directory_iterator(path)) {
      if (!is_data_file(entry.path())) continue;
      if (!entry.is_regular_file(error))
        fail(ErrorCode::BadInput, "{}: this is no file (a broken link or a folder)",
             entry.path().string());
      found.push_back(entry.path().string());
    }
    if (found.empty())
      fail(ErrorCode::BadInput, "{}: the folder has no .jsonl, .ndjson, .json, .csv or .txt file",
           path);
    std::sort(found.begin(), found.end());
    refuse_mixed(found, path);
    files.insert(files.end(), found.begin(), found.end());
  }
  if (files.empty()) fail(ErrorCode::Usage, "no data file is given");
  return files;
}

void recount(Dataset& dataset) {
  dataset.tokens = dataset.trained_tokens = dataset.longest_row_tokens = dataset.repeated_rows = 0;
  std::unordered_set<uint64_t> seen;
  const Row* last = nullptr;
  for (const Row& row : dataset.rows) {
    const bool same_record = last && last->line == row.line && last->file == row.file;
    last = &row;
    dataset.tokens += std::ssize(row.ids);
    dataset.trained_tokens += std::count(row.trained.begin(), row.trained.end(), 1);
    dataset.longest_row_tokens = std::max<int64_t>(dataset.longest_row_tokens, std::ssize(row.ids));
    dataset.repeated_rows += !same_record && !seen.insert(row.content).second;
  }
}

int64_t memory_bytes(const Dataset& dataset) {
  int64_t bytes = heap_bytes(std::ssize(dataset.rows) * static_cast<int64_t>(sizeof(Row)));
  for (const Row& row : dataset.rows)
    bytes += heap_bytes(std::ssize(row.ids) * 4) + heap_bytes(std::ssize(row.trained));
  return bytes;
}

void compact(Dataset& dataset) {
  for (Row& row : dataset.rows) {
    row.ids.shrink_to_fit();
    row.trained.shrink_to_fit();
  }
  dataset.rows.shrink_to_fit();
}

void report(const Dataset& dataset, int64_t max_tokens) {
  const Dataset& d = dataset;
  for (const DataFile& file : d.files) log::info("{}: {}", file.path, file.verdict);
  log::info("{}: {} rows, {} tokens, {} trained ({:.1f} %), longest row {}", d.path, d.rows.size(),
            d.tokens, d.trained_tokens,
            100.0 * static_cast<double>(d.trained_tokens) / static_cast<double>(d.tokens),
            d.longest_row_tokens);
  if (d.dropped_rows > 0)
    log::warn("{}: {} rows dropped as longer than data.max_tokens {}", d.path, d.dropped_rows,
              max_tokens);
  if (d.truncated_rows > 0)
    log::warn(
        "{}: {} rows cut to data.max_tokens {}: {} tokens lost; {} of the rows lost trained "
        "tokens, and with them the end that they would teach",
        d.path, d.truncated_rows, max_tokens, d.cut_tokens, d.endless_rows);
  for (size_t remark = 0; remark < kRemarkTexts.size(); ++remark)
    if (d.remarked_rows[remark] > 0)
      log::warn("{}: {} rows: {}", d.path, d.remarked_rows[remark], kRemarkTexts[remark]);
  if (d.repeated_rows > 0) log::warn("{}: {} rows repeat an earlier row", d.path, d.repeated_rows);
}

Dataset load_dataset(const std::vector<std::string>& paths, const RunConfig::Data& options,
                     const ModelText& text) {
  return Loader(paths, options, text).load();
}

}  // namespace lema
