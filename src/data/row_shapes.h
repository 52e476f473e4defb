// The shapes a row may have, and its token ids and label mask. data/dataset.cpp calls these for
// every record; dialogue.h has the shapes that are conversations.
//
//   text        {"text": "..."}
//   completion  {"prompt": "...", "completion": "..."}, or both as arrays of messages
//   chat        {"messages": [{"role", "content"}, ...]}
//   alpaca      {"instruction", "output", ...}
//   sharegpt    {"conversations": [{"from", "value"}, ...]}
//   tokens      {"tokens" or "input_ids": [ids], and optionally "labels": [id or -100] or "mask":
//   [0 or 1]}
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/dialogue.h"
#include "data/model_text.h"
#include "data/written_parts.h"
#include "formats/run_config.h"

namespace lema {

struct Row {
  std::vector<int32_t> ids;  // (T)
  std::vector<uint8_t>
      trained;           // (T) 1 where predicting this token counts in the loss; trained[0] is 0
  int64_t line = 0;      // of the file, from 1
  int32_t file = 0;      // index of Dataset::files
  uint64_t content = 0;  // first 64 bits of the SHA-256 of what the row says
  // As ChatEncoding has it, of a conversation that was read from a file; a cached row has none.
  int64_t first_stop = -1;
  Remarks remarks = {};  // likewise
};

// The shape that a row's fields name, and why: `by "messages", not by "text"`. nullopt: none.
struct DetectedShape {
  std::string format, reason;
};
std::optional<DetectedShape> detect_shape(const Value& row);

// Renames fields and roles: `map` has lema's name first, then the file's. What a row has under
// lema's own name gives way. used[i] is set where entry i of the map changed something.
Value apply_map(const Value& row, const OrderedMap<std::string>& map, std::vector<uint8_t>& used);
// Usage for an entry that names none of lema's fields or roles.
void check_map(const OrderedMap<std::string>& map);

// First 64 bits of the SHA-256 of what the row says in lema's fields, in any order: what else it
// holds, a number or a source, makes no other row.
uint64_t row_content(const Value& row);

// Whether rows of some format have a field of this name.
bool is_read(std::string_view field);

// Whether rows of the format are conversations, which must train a stop token: all but text, tokens
// and completion with texts.
bool is_dialogue(const std::string& format, const Value& row);
// Whether predicting a stop token at the end of an answer counts in the loss.
bool trains_stop(const Row& row);

// The conversation of a row of a conversational format (chat, alpaca, sharegpt, completion with
// messages); nullopt for rows that are none. BadInput with the reason.
std::optional<Dialogue> dialogue_of(const std::string& format, const Value& row);

// The rows that one of a file gives, before the length rules: one, or under train_on "each" one for
// every trained answer of a conversation. Errors: BadInput with the reason only, no
// place; Usage where no row could be read: no chat template, no EOS token to append.
std::vector<Row> encode_row(const std::string& format, const Value& row,
                            const RunConfig::Data& options, const ModelText& text);

}  // namespace lema
