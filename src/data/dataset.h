// Dataset: the rows of a JSONL file as token ids, with a mask that says which of them are trained.
// `lema train`, eval and data read their files here; the batcher cuts the rows into steps.
//
// One JSON object a line (UTF-8; a byte order mark at the start of the file is skipped; blank lines
// are skipped; LF or CRLF; the last line may lack its end). The three formats:
//   text    {"text": "..."}
//   chat    {"messages": [{"role", "content"}, ...], "tools": [...] optional}
//   tokens  {"tokens" or "input_ids": [ids], and optionally "labels": [id or -100] or "mask": [0 or
//   1]}
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/model_text.h"
#include "formats/run_config.h"

namespace lema {

struct Row {
  std::vector<int32_t> ids;  // (T)
  std::vector<uint8_t>
      trained;       // (T) 1 where predicting this token counts in the loss; trained[0] is 0
  int64_t line = 0;  // of the file, from 1
};

struct Dataset {
  std::vector<Row> rows;
  std::string path;
  std::string format;  // text | chat | tokens
  int64_t tokens = 0, trained_tokens = 0;
  int64_t longest_row_tokens = 0;
  int64_t dropped_rows = 0, truncated_rows = 0;  // by `too_long`
};

// Reads the whole file. BadInput with up to 20 lines "PATH:LINE:COLUMN: reason" and the number of
// all bad rows when any row is malformed, has nothing to train, an id outside the vocabulary, or is
// longer than max_tokens under `error`. Usage for options that contradict the format.
Dataset load_dataset(const std::string& path, const RunConfig::Data& options,
                     const ModelText& text);

// One row's tokens and mask before the length rules. Errors: BadInput with the reason only, no
// place; Usage where no row could be read: no chat template, no EOS token to append.
Row text_row(const Value& object, const RunConfig::Data& options, const ModelText& text);
Row chat_row(const Value& object, const RunConfig::Data& options, const ModelText& text);
Row tokens_row(const Value& object, const ModelText& text);

}  // namespace lema
