// Splits data files into records. A JSON array is cut into its elements without being parsed as a
// whole, so that a wrong element is one wrong record and memory stays at one record.
#include "data/record_reader.h"

#include <algorithm>
#include <array>
#include <cctype>

#include "core/error.h"
#include "formats/json.h"
#include "text/unicode.h"

namespace lema {
namespace {

constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
constexpr size_t kMaxFields = 4096;  // LIMIT: of a CSV record; an empty one costs 64 bytes
constexpr std::string_view kExtensions = ".jsonl, .ndjson, .json, .csv or .txt, each also as .gz";

// The extension that says what the text is: that of the name without ".gz".
std::string extension_of(const fs::path& path) {
  const auto lower = [](std::string text) {
    for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return text;
  };
  const bool packed = lower(path.extension().string()) == ".gz";
  return lower((packed ? path.stem() : path).extension().string());
}

bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

// Why the bytes are no text, or "".
std::string_view text_fault(std::string_view bytes) {
  if (bytes.find('\0') != bytes.npos) return "NUL byte";
  return is_valid_utf8(bytes) ? "" : "not valid UTF-8";
}

}  // namespace

std::string_view name(RecordFormat format) {
  constexpr std::array<std::string_view, 4> kNames = {"JSON lines", "a JSON array", "CSV",
                                                      "lines of text"};
  return kNames[static_cast<size_t>(format)];
}

bool is_data_file(const fs::path& path) {
  constexpr std::array<std::string_view, 5> kKnown = {".jsonl", ".ndjson", ".json", ".csv", ".txt"};
  return std::find(kKnown.begin(), kKnown.end(), extension_of(path)) != kKnown.end();
}

std::string_view record_kind(const fs::path& path) {
  const std::string extension = extension_of(path);
  return extension == ".csv" ? "CSV" : extension == ".txt" ? "text" : "JSON";
}

RecordReader::RecordReader(const fs::path& path) : stream_(path) {
  if (!is_data_file(path))
    fail(ErrorCode::BadInput, "{}: found a file ending in \"{}\", expected {}", path.string(),
         escaped(path.extension().string()), kExtensions);
  const std::string extension = extension_of(path);
  format_ = extension == ".csv"   ? RecordFormat::Csv
            : extension == ".txt" ? RecordFormat::Text
                                  : RecordFormat::JsonLines;
  piece_ = stream_.next();
  if (piece_.starts_with(kByteOrderMark)) at_ = kByteOrderMark.size();
  if (extension == ".json" && skip_blank() && peek() == '[') format_ = RecordFormat::JsonArray;
  if (format_ != RecordFormat::JsonArray) refuse_other_lines();
}

// What would else be one error a line: lines that end in CR alone, and a JSON value over many.
void RecordReader::refuse_other_lines() const {
  const std::string_view rest = piece_.substr(std::min(at_, piece_.size()));
  const size_t line_end = rest.find('\n');
  const size_t return_at = rest.find('\r');
  if (line_end == rest.npos && return_at != rest.npos &&
      rest.find_first_not_of('\r', return_at) != rest.npos)
    fail(ErrorCode::BadInput, "{}: its lines end in CR alone, expected LF or CRLF",
         stream_.path().string());
  if (format_ != RecordFormat::JsonLines || line_end == rest.npos) return;
  const size_t begin = rest.find_first_not_of(" \t\r\n");
  const std::string_view line =
      begin == rest.npos ? "" : rest.substr(begin, rest.find('\n', begin) - begin);
  const size_t last = line.find_last_not_of(" \t\r");
  if (last != line.npos && std::string_view("{[,:").find(line[last]) != std::string_view::npos)
    refuse(1, 1,
           "a JSON value over several lines; expected one object a line, or in a .json file one "
           "array of objects");
}

bool RecordReader::next(Record& record) {
  record.reason.clear();
  record.text.clear();
  switch (format_) {
    case RecordFormat::JsonLines:
      return next_json_line(record);
    case RecordFormat::JsonArray:
      return next_element(record);
    case RecordFormat::Csv:
      return next_csv(record);
    case RecordFormat::Text:
      return next_text(record);
  }
  return false;
}

bool RecordReader::at_end() {
  if (at_ < piece_.size()) return false;
  piece_ = stream_.next();
  at_ = 0;
  return piece_.empty();
}

char RecordReader::take() {
  const char c = piece_[at_++];
  if (c == '\n') {
    ++line_;
    column_ = 1;
  } else {
    ++column_;
  }
  return c;
}

bool RecordReader::skip_blank() {
  while (!at_end() && is_blank(peek())) take();
  return !at_end();
}

void RecordReader::refuse(int64_t line, int64_t column, std::string_view reason) const {
  fail(ErrorCode::BadInput, "{}:{}:{}: {}", stream_.path().string(), line, column, reason);
}

void RecordReader::append(std::string& out, char c) const {
  if (std::ssize(out) >= kMaxRecordBytes)
    refuse(line_, 1, fmt::format("a record of more than {} bytes", kMaxRecordBytes));
  out += c;
}

// The text up to the end of the line, without it; false at the end of the text.
bool RecordReader::take_line(Record& record) {
  if (at_end()) return false;
  record.line = line_++;
  record.column = 1;
  record.text.clear();
  while (!at_end()) {
    const size_t end = piece_.find('\n', at_);
    const std::string_view part = piece_.substr(at_, end == piece_.npos ? end : end - at_);
    if (std::ssize(record.text) + std::ssize(part) > kMaxRecordBytes)
      refuse(record.line, 1, fmt::format("a line of more than {} bytes", kMaxRecordBytes));
    record.text += part;
    at_ += part.size();
    if (end == piece_.npos) continue;
    ++at_;
    break;
  }
  return true;
}

void RecordReader::parse(Record& record) const {
  try {
    record.value = parse_json(record.text, stream_.path().string(), kJsonLineLimits,
                              static_cast<int>(record.line), record.column);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::BadInput) throw;
    record.reason = error.what();
  }
}

bool RecordReader::next_json_line(Record& record) {
  do {
    if (!take_line(record)) return false;
  } while (std::all_of(record.text.begin(), record.text.end(), is_blank));
  parse(record);
  record.column = static_cast<int64_t>(record.text.find_first_not_of(" \t\r")) + 1;
  return true;
}

// --- JSON array ---

bool RecordReader::next_element(Record& record) {
  if (!began_) {
    skip_blank();
    take();  // the bracket
  }
  if (!skip_blank()) refuse(line_, column_, "the array ends in the middle");
  if (peek() == ']') {
    end_array();
    return false;
  }
  if (began_) {
    if (peek() != ',') refuse(line_, column_, "expected ',' or ']' after an element of the array");
    take();
    if (!skip_blank()) refuse(line_, column_, "the array ends in the middle");
  }
  began_ = true;
  record.line = line_;
  record.column = column_;
  take_element(record.text);
  parse(record);
  return true;
}

// One element: to the bracket that closes its first, or to what follows a plain value.
void RecordReader::take_element(std::string& text) {
  int64_t depth = 0;
  bool in_string = false;
  for (bool escaped_next = false; !at_end();) {
    const char c = peek();
    if (depth == 0 && !in_string && (c == ',' || c == ']' || c == '}' || is_blank(c))) return;
    append(text, take());
    if (in_string) {
      if (!escaped_next && c == '"') in_string = false;
      escaped_next = !escaped_next && c == '\\';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      ++depth;
    } else if (c == '}' || c == ']') {
      --depth;
    }
    if (depth == 0 && !in_string && (c == '"' || c == '}' || c == ']')) return;
  }
}

void RecordReader::end_array() {
  take();
  if (skip_blank()) refuse(line_, column_, "text after the end of the array");
  format_ = RecordFormat::JsonLines;  // of which none is left
}

// --- CSV ---

// A quoted field, the quote being next; doubled quotes are one.
void RecordReader::take_quoted(Record& record, std::string& field) {
  const int64_t line = line_, column = column_;
  append(record.text, take());
  while (!at_end()) {
    const char c = take();
    append(record.text, c);
    if (c != '"') {
      field += c;
      continue;
    }
    if (at_end() || peek() != '"') return;
    append(record.text, take());
    field += '"';
  }
  refuse(line, column, "a quote that is never closed");
}

// The fields of one record; false at the end of the text. Record::reason says what is wrong.
bool RecordReader::take_fields(Record& record, std::vector<std::string>& fields) {
  if (at_end()) return false;
  record.line = line_;
  record.column = 1;
  fields.assign(1, "");
  bool quoted = false;  // the field began with a quote
  for (bool begins = true; !at_end();) {
    const int64_t column = column_;
    const char c = peek();
    if (c == '"' && begins) {
      take_quoted(record, fields.back());
      quoted = true;
      begins = false;
      continue;
    }
    take();
    if (c == '\n') break;
    append(record.text, c);
    if (c == '\r' && (at_end() || peek() == '\n')) continue;
    begins = c == ',';
    if (begins) {
      if (fields.size() == kMaxFields)
        refuse(record.line, 1, fmt::format("a record of more than {} fields", kMaxFields));
      fields.emplace_back();
      quoted = false;
    } else if ((quoted || c == '"') && record.reason.empty()) {
      record.reason = fmt::format("{}:{}:{}: {}", stream_.path().string(), line_, column,
                                  quoted ? "text after a closing quote" : "a quote inside a field");
    } else {
      fields.back() += c;
    }
  }
  return true;
}

void RecordReader::read_header() {
  began_ = true;
  Record record;
  do {
    if (!take_fields(record, header_)) return;
  } while (header_.size() == 1 && header_[0].empty());
  if (!record.reason.empty()) fail(ErrorCode::BadInput, "{}", record.reason);
  if (const auto fault = text_fault(record.text); !fault.empty()) refuse(record.line, 1, fault);
  for (size_t i = 0; i < header_.size(); ++i) {
    if (header_[i].empty()) refuse(record.line, 1, fmt::format("column {} has no name", i + 1));
    if (std::find(header_.begin(), header_.begin() + static_cast<std::ptrdiff_t>(i), header_[i]) !=
        header_.begin() + static_cast<std::ptrdiff_t>(i))
      refuse(record.line, 1, fmt::format("two columns \"{}\"", escaped(header_[i])));
  }
}

bool RecordReader::next_csv(Record& record) {
  if (!began_) read_header();
  std::vector<std::string> fields;
  do {
    record.text.clear();
    if (!take_fields(record, fields)) return false;
  } while (record.text.find_first_not_of('\r') == record.text.npos);
  const auto wrong = [&](std::string_view reason) {
    record.reason = fmt::format("{}:{}:1: {}", stream_.path().string(), record.line, reason);
  };
  if (!record.reason.empty()) return true;
  if (const auto fault = text_fault(record.text); !fault.empty()) {
    wrong(fault);
  } else if (fields.size() != header_.size()) {
    wrong(fmt::format("found {} fields, expected {} as in the header", fields.size(),
                      header_.size()));
  } else {
    Value::Object object;
    for (size_t i = 0; i < fields.size(); ++i)
      object.emplace_back(header_[i], std::move(fields[i]));
    record.value = Value(std::move(object));
  }
  return true;
}

// --- lines of text ---

bool RecordReader::next_text(Record& record) {
  do {
    if (!take_line(record)) return false;
    if (record.text.ends_with('\r')) record.text.pop_back();
  } while (std::all_of(record.text.begin(), record.text.end(), is_blank));
  if (const auto fault = text_fault(record.text); !fault.empty())
    record.reason = fmt::format("{}:{}:1: {}", stream_.path().string(), record.line, fault);
  else
    record.value = Value(Value::Object{{"text", record.text}});
  return true;
}

}  // namespace lema
