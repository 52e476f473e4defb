// RecordReader: the records of a data file, one by one, each a JSON value with its place. What a
// record means is data/row_shapes.h; data/dataset.cpp drives both.
//
//   .jsonl .ndjson  one JSON value a line
//   .json           one JSON array, whose elements are the records; else read as JSON lines
//   .csv            a header line and records as RFC 4180 has them, an object of strings each; at
//                   most 4096 fields
//   .txt            every line that is not blank is the record {"text": line}
//
// each also as .gz, in upper case too. UTF-8; a byte order mark at the start is skipped, blank
// lines are skipped, LF or CRLF ends a line, the last line may lack its end.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/value.h"
#include "formats/text_stream.h"

namespace lema {

struct Record {
  Value value;              // when `reason` is empty
  std::string text;         // as the file has it
  int64_t line = 0;         // of the first byte, from 1
  int64_t column = 1;       // in bytes, from 1
  std::string reason = {};  // "PATH:LINE:COLUMN: ..." why it cannot be read; "" when it can
};

enum class RecordFormat { JsonLines, JsonArray, Csv, Text };
// "JSON lines", "a JSON array", "CSV", "lines of text".
std::string_view name(RecordFormat format);

// The file names that a folder of data is searched for: one of the extensions above.
bool is_data_file(const fs::path& path);
// "JSON", "CSV" or "text": what such a name says of the content.
std::string_view record_kind(const fs::path& path);

// Threads: one. Memory: one record, at most kMaxRecordBytes of text.
class RecordReader {
 public:
  // BadInput for a name with none of the extensions and for what TextStream refuses.
  explicit RecordReader(const fs::path& path);

  RecordFormat format() const { return format_; }

  // The next record; false at the end. A record that is wrong by itself says so in `reason`;
  // BadInput "PATH:LINE:COLUMN: ..." where the rest of the file cannot be read either: a broken
  // array, an open quote, a record above kMaxRecordBytes.
  bool next(Record& record);

  static constexpr int64_t kMaxRecordBytes = int64_t{64} << 20;

 private:
  // --- bytes, with their place ---
  bool at_end();
  char peek() const { return piece_[at_]; }
  char take();
  bool skip_blank();  // false at the end of the text
  [[noreturn]] void refuse(int64_t line, int64_t column, std::string_view reason) const;
  void append(std::string& out, char c) const;

  void refuse_other_lines() const;
  bool take_line(Record& record);
  bool next_json_line(Record& record);
  bool next_element(Record& record);
  void take_element(std::string& text);
  void end_array();
  bool next_csv(Record& record);
  bool take_fields(Record& record, std::vector<std::string>& fields);
  void take_quoted(Record& record, std::string& field);
  bool next_text(Record& record);
  void parse(Record& record) const;
  void read_header();

  TextStream stream_;
  RecordFormat format_;
  std::string_view piece_;
  size_t at_ = 0;
  int64_t line_ = 1, column_ = 1;  // of the next byte
  bool began_ = false;             // the array's bracket or the header is behind
  std::vector<std::string> header_;
};

}  // namespace lema
