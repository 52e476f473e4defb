// The tokens that the configs beside a tokenizer name, as transformers 5 gives them to the
// tokenizer when it loads a folder. Called by the choice of the tokenizer's file
// (formats/tokenizer_files).
#pragma once

#include <optional>
#include <string>

#include "core/value.h"

namespace lema {

// The text of a token that a config names, a string or an AddedToken object; nullopt for anything
// else, null and nullptr among it.
std::optional<std::string> token_content(const Value* token);

struct ConfigTokens {
  const Value& config;                  // tokenizer_config.json, an object
  const Value* special_map = nullptr;   // special_tokens_map.json, null when absent
  const Value* added_tokens = nullptr;  // added_tokens.json, null when absent
  std::string added_tokens_place = {};  // its path, for messages
};

// Extends added_tokens of `tokenizer` (a parsed tokenizer.json) by the tokens that it lacks there,
// in this order: those of added_tokens.json; bos_token, eos_token ... mask_token and every other
// *_token; extra_special_tokens, else additional_special_tokens. Named ones are special. A token of
// the vocabulary keeps its id, any other gets the next free one. The two side files count only
// where tokenizer_config.json has no added_tokens_decoder (which Tokenizer reads itself).
// BadInput: an added_tokens.json that is malformed or gives a token another id than that.
// Ref: TokenizersBackend.__init__ and PreTrainedTokenizerBase._from_pretrained.
void add_config_tokens(Value& tokenizer, const ConfigTokens& tokens);

}  // namespace lema
