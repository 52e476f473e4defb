// The label mask of a conversation: which tokens of a rendered chat are the assistant's. Used by
// the data set reader and by `lema tokenize --chat`.
#pragma once

#include <string>
#include <vector>

#include "core/value.h"
#include "data/model_text.h"

namespace lema {

struct ChatEncoding {
  std::string text;              // the conversation as the template writes it
  std::vector<int32_t> ids;      // (T) of the whole text, encoded once
  std::vector<uint8_t> trained;  // (T) 1: the token's first byte is the assistant's
};

// Checks that `messages` is a non-empty array of {"role", "content"} with known roles. BadInput
// "messages[2].role: ..".
void check_messages(const Value& messages);

// Renders and encodes a conversation (check_messages passed). train_on "all" trains every token,
// "completions" the assistant's turns. The text of a turn is what render(messages[0..i]) adds to
// render(messages[0..i), generation prompt): the answer, the end token and whatever the template
// writes before the next message. A template with
// {% generation %} blocks says it itself. Positions decide, never ids. BadInput with the reason
// when a rendering is not the start of the longer one, or when a prompt's tokens are not the first
// tokens of the whole: then no mask would be what a chat sees.
ChatEncoding encode_chat(const Value& messages, const Value& tools, bool add_generation_prompt,
                         const std::string& train_on, const ModelText& text);

}  // namespace lema
