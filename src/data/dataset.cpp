// Reads JSONL data sets. A row is turned into ids and mask by one function per format; load_dataset
// walks the lines, collects the reasons of bad rows instead of stopping at the first, and applies
// the length rules.
#include "data/dataset.h"

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "data/chat_mask.h"
#include "formats/json.h"

namespace lema {
namespace {

constexpr size_t kReasonsShown = 20;
constexpr int64_t kIgnoredLabel = -100;  // torch.nn.CrossEntropyLoss's ignore_index

const Value& field(const Value& object, std::string_view key, Value::Kind kind) {
  const Value* value = object.find(key);
  if (!value) fail(ErrorCode::BadInput, "no field \"{}\"", key);
  if (value->kind() != kind)
    fail(ErrorCode::BadInput, "{}: found {}, expected {}", key, name(value->kind()), name(kind));
  return *value;
}

// Element i of an array of integers (booleans count as 0 and 1).
int64_t element(const Value::Array& array, size_t i, std::string_view key) {
  if (array[i].is_bool()) return array[i].as_bool();
  if (!array[i].is_int())
    fail(ErrorCode::BadInput, "{}[{}]: found {}, expected integer", key, i, name(array[i].kind()));
  return array[i].as_int();
}

const Value::Array* parallel_array(const Value& object, std::string_view key, size_t length) {
  const Value* value = object.find(key);
  if (!value) return nullptr;
  const Value::Array& array = field(object, key, Value::Kind::Array).as_array();
  if (array.size() != length)
    fail(ErrorCode::BadInput, "{}: found {} elements, expected one per token: {}", key,
         array.size(), length);
  return &array;
}

void train_everything(Row& row) { row.trained.assign(row.ids.size(), 1); }

// The format that a row's fields name.
std::optional<std::string> format_of(const Value& row) {
  if (row.find("messages")) return "chat";
  if (row.find("text")) return "text";
  if (row.find("tokens") || row.find("input_ids")) return "tokens";
  return std::nullopt;
}

std::string fields_of(const Value& row) {
  std::string names;
  for (const auto& [key, value] : row.as_object())
    names += (names.empty() ? "" : ", ") + escaped(key);
  return names.empty() ? "no fields" : "fields " + names;
}

class Reader {
 public:
  Reader(const std::string& path, const RunConfig::Data& options, const ModelText& text)
      : options_(options), text_(text) {
    dataset_.path = path;
    if (options.format != "auto") dataset_.format = options.format;
    if (options.append_eos && !dataset_.format.empty()) check_append_eos();
  }

  Dataset read() {
    const MappedFile file(dataset_.path);
    std::string_view rest(reinterpret_cast<const char*>(file.data()),
                          static_cast<size_t>(file.size()));
    if (rest.starts_with("\xef\xbb\xbf")) rest.remove_prefix(3);
    for (int64_t line = 1; !rest.empty(); ++line) {
      const size_t end = std::min(rest.find('\n'), rest.size());
      read_line(rest.substr(0, end), line);
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    refuse_bad_rows();
    log::info(
        "{}: format {}{}, {} rows, {} tokens, {} trained ({:.1f} %), longest row {}{}",
        dataset_.path, dataset_.format, verdict_, dataset_.rows.size(), dataset_.tokens,
        dataset_.trained_tokens,
        100.0 * static_cast<double>(dataset_.trained_tokens) / static_cast<double>(dataset_.tokens),
        dataset_.longest_row_tokens, length_verdict());
    return std::move(dataset_);
  }

 private:
  void read_line(std::string_view line, int64_t number) {
    const size_t begin = line.find_first_not_of(" \t\r");
    if (begin == std::string_view::npos) return;
    ++row_count_;
    try {
      const Value object =
          parse_json(line, dataset_.path, kJsonLineLimits, static_cast<int>(number));
      try {
        take(object, number);
      } catch (const Error& error) {
        if (error.code() != ErrorCode::BadInput) throw;
        fail(ErrorCode::BadInput, "{}:{}:{}: {}", dataset_.path, number, begin + 1, error.what());
      }
    } catch (const Error& error) {
      if (error.code() != ErrorCode::BadInput) throw;
      ++bad_rows_;
      if (reasons_.size() < kReasonsShown) reasons_.emplace_back(error.what());
    }
  }

  void take(const Value& object, int64_t line) {
    if (!object.is_object())
      fail(ErrorCode::BadInput, "found {}, expected object", name(object.kind()));
    if (dataset_.format.empty()) detect(object, line);
    Row row = dataset_.format == "chat"   ? chat_row(object, options_, text_)
              : dataset_.format == "text" ? text_row(object, options_, text_)
                                          : tokens_row(object, text_);
    row.line = line;
    const auto count = static_cast<int64_t>(row.ids.size());
    if (count > options_.max_tokens) {
      if (options_.too_long == "error")
        fail(ErrorCode::BadInput,
             "{} tokens, data.max_tokens is {} (data.too_long: drop or truncate)", count,
             options_.max_tokens);
      if (options_.too_long == "drop") {
        ++dataset_.dropped_rows;
        return;
      }
      ++dataset_.truncated_rows;
      row.ids.resize(static_cast<size_t>(options_.max_tokens));
      row.trained.resize(row.ids.size());
    }
    if (!row.trained.empty()) row.trained[0] = 0;
    const auto trained = std::count(row.trained.begin(), row.trained.end(), 1);
    if (trained == 0)
      fail(ErrorCode::BadInput, "no trained token among {}{}", row.ids.size(),
           count > options_.max_tokens ? fmt::format(" (after truncation from {})", count) : "");
    dataset_.tokens += static_cast<int64_t>(row.ids.size());
    dataset_.trained_tokens += trained;
    dataset_.longest_row_tokens =
        std::max(dataset_.longest_row_tokens, static_cast<int64_t>(row.ids.size()));
    dataset_.rows.push_back(std::move(row));
  }

  void detect(const Value& object, int64_t line) {
    const auto format = format_of(object);
    if (!format)
      fail(ErrorCode::BadInput,
           "found {}, expected \"messages\", \"text\", \"tokens\" or \"input_ids\"",
           fields_of(object));
    dataset_.format = *format;
    verdict_ = fmt::format(" (by line {})", line);
    if (options_.append_eos) check_append_eos();
  }

  void check_append_eos() const {
    if (dataset_.format != "text")
      fail(ErrorCode::Usage, "data.append_eos applies to format text; the format of {} is {}",
           dataset_.path, dataset_.format);
  }

  void refuse_bad_rows() const {
    if (bad_rows_ > 0)
      fail(ErrorCode::BadInput, "{}: {} of {} rows cannot be used:\n{}{}", dataset_.path, bad_rows_,
           row_count_, fmt::join(reasons_, "\n"),
           bad_rows_ > reasons_.size()
               ? fmt::format("\n... and {} more", bad_rows_ - reasons_.size())
               : "");
    if (dataset_.rows.empty())
      fail(ErrorCode::BadInput, "{}: {}", dataset_.path,
           row_count_ == 0 ? "the file has no rows"
                           : fmt::format("all {} rows are longer than data.max_tokens {}",
                                         row_count_, options_.max_tokens));
  }

  std::string length_verdict() const {
    if (dataset_.dropped_rows > 0)
      return fmt::format(", {} dropped as longer than {}", dataset_.dropped_rows,
                         options_.max_tokens);
    if (dataset_.truncated_rows > 0)
      return fmt::format(", {} truncated to {}", dataset_.truncated_rows, options_.max_tokens);
    return "";
  }

  const RunConfig::Data& options_;
  const ModelText& text_;
  Dataset dataset_;
  std::string verdict_;  // how the format was found
  size_t row_count_ = 0, bad_rows_ = 0;
  std::vector<std::string> reasons_;
};

}  // namespace

Row text_row(const Value& object, const RunConfig::Data& options, const ModelText& text) {
  Row row;
  row.ids =
      text.tokenizer().encode(field(object, "text", Value::Kind::String).as_string(), true).ids;
  if (options.append_eos.value_or(true)) {
    if (!text.eos_id())
      fail(ErrorCode::Usage,
           "data.append_eos: neither tokenizer_config.json (eos_token) nor config.json "
           "(eos_token_id) names an EOS "
           "token; set it, or data.append_eos = false");
    // A tokenizer's own post-processor may have added it.
    if (row.ids.empty() || row.ids.back() != *text.eos_id()) row.ids.push_back(*text.eos_id());
  }
  train_everything(row);
  return row;
}

Row chat_row(const Value& object, const RunConfig::Data& options, const ModelText& text) {
  const Value& messages = field(object, "messages", Value::Kind::Array);
  check_messages(messages);
  const Value* tools = object.find("tools");
  if (tools && !tools->is_null() && !tools->is_array())
    fail(ErrorCode::BadInput, "tools: found {}, expected array", name(tools->kind()));
  ChatEncoding chat =
      encode_chat(messages, tools ? *tools : Value(), false, options.train_on, text);
  Row row;
  row.ids = std::move(chat.ids);
  row.trained = std::move(chat.trained);
  bool stops = false, trains = false;
  for (size_t t = 1; t < row.ids.size(); ++t) {
    trains |= row.trained[t] != 0;
    stops |= row.trained[t] && text.is_stop(row.ids[t]);
  }
  if (!trains) fail(ErrorCode::BadInput, "no trained token: no message of the assistant");
  if (!stops)
    fail(ErrorCode::BadInput,
         "no stop token is trained (stop ids of the model: {}): a model trained on this row would "
         "not learn to stop",
         text.stop_ids().empty() ? "none" : fmt::format("{}", fmt::join(text.stop_ids(), ", ")));
  return row;
}

Row tokens_row(const Value& object, const ModelText& text) {
  if (object.find("tokens") && object.find("input_ids"))
    fail(ErrorCode::BadInput, "both \"tokens\" and \"input_ids\"; give one");
  if (object.find("labels") && object.find("mask"))
    fail(ErrorCode::BadInput, "both \"labels\" and \"mask\"; give one");
  const std::string_view key = object.find("input_ids") ? "input_ids" : "tokens";
  const Value::Array& ids = field(object, key, Value::Kind::Array).as_array();
  Row row;
  row.ids.reserve(ids.size());
  for (size_t t = 0; t < ids.size(); ++t) {
    const int64_t id = ids[t].is_bool() ? -1 : element(ids, t, key);
    if (id < 0 || id >= text.V())
      fail(ErrorCode::BadInput, "{}[{}]: found {}, expected an id below the vocabulary's {}", key,
           t, id, text.V());
    row.ids.push_back(static_cast<int32_t>(id));
  }
  train_everything(row);
  if (const Value::Array* labels = parallel_array(object, "labels", ids.size())) {
    for (size_t t = 0; t < ids.size(); ++t) {
      const int64_t label = element(*labels, t, "labels");
      row.trained[t] = label != kIgnoredLabel;
      if (label != kIgnoredLabel && label != row.ids[t])
        fail(ErrorCode::BadInput,
             "labels[{}]: found {}, expected {} (the same token, unshifted) or -100", t, label,
             row.ids[t]);
    }
  }
  if (const Value::Array* mask = parallel_array(object, "mask", ids.size())) {
    for (size_t t = 0; t < ids.size(); ++t) {
      const int64_t trained = element(*mask, t, "mask");
      if (trained != 0 && trained != 1)
        fail(ErrorCode::BadInput, "mask[{}]: found {}, expected 0 or 1", t, trained);
      row.trained[t] = trained == 1;
    }
  }
  return row;
}

Dataset load_dataset(const std::string& path, const RunConfig::Data& options,
                     const ModelText& text) {
  return Reader(path, options, text).read();
}

}  // namespace lema
