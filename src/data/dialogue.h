// Dialogue: what a row of shape chat, alpaca, sharegpt or completion says as messages, before
// the model's template writes it. row_shapes.cpp encodes it; `lema tokenize --chat` shows it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/value.h"

namespace lema {

struct Dialogue {
  Value messages;                       // array of {"role", "content", ...}
  Value tools = {};                     // array or null
  Value variables = {};                 // object or null: the row's own variables of the template
  Value as_given = {};                  // messages with arguments of calls as text; null: as above
  std::vector<uint8_t> untrained = {};  // per message, 1: it carries no loss; empty: as train_on
};

// Checks that `messages` is a non-empty array of {"role", "content"} with known roles. BadInput
// "messages[2].role: ..".
void check_messages(const Value& messages);

// The conversation of a row. Errors: BadInput with the reason, no place.
//   chat      {"messages": [...]}
//   alpaca    {"instruction", "output"} with "input" and "history" [[asked, answered]]
//   sharegpt  {"conversations": [{"from", "value"} or {"role", "content"}]}
//   completion whose "prompt" and "completion" are arrays of messages: the prompt's are untrained
// Each takes "system" (refused beside a first message that says something else), "tools" (an array,
// or one as JSON text) and "chat_template_kwargs". A message's "weight" 0 leaves it untrained;
// arguments of tool calls given as JSON text become the object they say; "function_call" and the
// role "function" are read as tool_calls and tool.
Dialogue chat_dialogue(const Value& row);
Dialogue alpaca_dialogue(const Value& row);
Dialogue sharegpt_dialogue(const Value& row);
Dialogue completion_dialogue(const Value& row);

bool is_answer(const Value& message);  // of a checked list

// The reasoning of an answer by any of the names that data sets give it; "" when it has none.
std::string_view reasoning_of(const Value& message);

// The member `key` of a row. BadInput when it is absent or of another kind.
const Value& field(const Value& object, std::string_view key, Value::Kind kind);

}  // namespace lema
