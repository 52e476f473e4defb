// Dataset: the rows of data files as token ids, with a mask that says which of them are trained.
// `lema train`, eval and data read their files here; the batcher cuts the rows into steps.
//
// Files are those record_reader.h reads; a row's shape is row_shapes.h's. A folder stands for the
// data files directly in it, in the order of their names.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/file.h"
#include "data/row_shapes.h"

namespace lema {

struct DataFile {
  std::string path;
  std::string format;   // of its rows, "" where no row says it
  std::string verdict;  // how the format was found: `JSON lines, chat by "messages" of line 1`
};

// A row that cannot be used, under bad_rows = skip.
struct BadRow {
  std::string reason;  // PATH:LINE:COLUMN: ...
  std::string text;    // as the file has it, its first 64 KiB
};

struct Dataset {
  std::vector<Row> rows;
  std::vector<DataFile> files;
  std::string path;    // for messages: the file, or "PATH and 3 more"
  std::string format;  // of the rows; "mixed" where files differ
  int64_t tokens = 0, trained_tokens = 0;
  int64_t longest_row_tokens = 0;
  int64_t dropped_rows = 0, truncated_rows = 0;  // by `too_long`
  int64_t cut_tokens = 0;                        // that truncation took
  int64_t endless_rows = 0;  // truncated rows that lost their last trained token
  std::array<int64_t, kRemarkTexts.size()> remarked_rows = {};  // by Remark
  int64_t repeated_rows = 0;                                    // that say what an earlier row says
  std::vector<BadRow> bad;

  // "PATH:LINE" of a row.
  std::string place(const Row& row) const;
};

// The files that paths of files and folders name. BadInput for a missing path and for a folder
// without data files, with files named as several splits (train.jsonl, test.jsonl), with files of
// several kinds (JSON, CSV, text), or with a data file's name on what is no file.
std::vector<std::string> data_files(std::span<const std::string> paths);

// Reads all files whole. BadInput with up to 20 lines "PATH:LINE:COLUMN: reason" and the number of
// all bad rows when any row (under bad_rows = skip: more than max_bad_rows) is malformed, has
// nothing to train, an id outside the vocabulary, or is longer than max_tokens under `error`.
// Usage for options that contradict the format and for a map that renames nothing.
Dataset load_dataset(const std::vector<std::string>& paths, const RunConfig::Data& options,
                     const ModelText& text);

// Says in the log how the files were understood, what the rows hold and what was dropped, cut or
// repeated: after reading (load_dataset does it itself), and from the cache.
void report(const Dataset& dataset, int64_t max_tokens);

// Bytes that the rows take in memory, once they are compact.
int64_t memory_bytes(const Dataset& dataset);
// Gives back what the rows hold beyond their tokens.
void compact(Dataset& dataset);

// Counts tokens, lengths and repeats anew, after rows were taken out.
void recount(Dataset& dataset);

}  // namespace lema
