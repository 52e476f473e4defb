// The label mask of a conversation: which tokens of a rendered chat are the assistant's. Used by
// the data set reader and by `lema tokenize --chat`.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "data/dialogue.h"
#include "data/model_text.h"
#include "data/written_parts.h"

namespace lema {

struct ChatEncoding {
  std::string text;              // the conversation as the template writes it
  std::vector<int32_t> ids;      // (T) of the whole text, encoded once
  std::vector<uint8_t> trained;  // (T) 1: the token's first byte is the assistant's
  // Position of the first trained stop token that ends an answer, white space apart; -1: none.
  int64_t first_stop = -1;
  Remarks remarks;
};

// The mask of a conversation of more tokens than a row may have is built only where the row is cut
// to them, and then says of the rest only whether some of it is trained.
struct LengthRule {
  int64_t max_tokens = std::numeric_limits<int64_t>::max();
  bool truncates = false;
};

// Renders and encodes a conversation (checked). train_on "all" trains every token, "completions"
// the assistant's turns, "last" the last of them; turns that the conversation leaves untrained
// carry no loss under the latter two. The text of a turn is what render(messages[0..i]) adds to
// render(messages[0..i), generation prompt): the answer, the end token and whatever the template
// writes before the next message; "last" asks nothing of earlier turns. A template with
// {% generation %} blocks says it itself; a turn's blocks are those that its rendering adds to the
// number before it. Positions decide, never ids. BadInput with the reason when a rendering is not
// the start of the longer one, or when a prompt's tokens are not the first tokens of the whole:
// then no mask would be what a chat sees. A tail of special tokens that the template writes after
// the last message alone is no part of the turns before. With {% generation %} blocks this holds
// for the prompts, up to the answer's block. BadInput too where the text lacks what a trained
// conversation says (written_parts.h).
ChatEncoding encode_chat(const Dialogue& dialogue, bool add_generation_prompt,
                         const std::string& train_on, const ModelText& text,
                         const LengthRule& rule = {});

// The tokens that a reply to the conversation continues, as training has them before an answer.
// BadInput as encode_chat for what the template leaves out.
std::vector<int32_t> encode_prompt(const Dialogue& dialogue, const ModelText& text);

// `alone` holds the first tokens of `whole` up to byte `bytes`, and a token of `whole` begins
// there: what is written after a prompt does not change the prompt's tokens.
bool is_token_prefix(const Tokenizer::Encoding& alone, const Tokenizer::Encoding& whole,
                     size_t bytes);

}  // namespace lema
