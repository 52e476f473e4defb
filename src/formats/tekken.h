// tekken.json: Mistral's tokenizer file from Nemo on: byte tokens by rank behind a block of special
// tokens, with the regex that cuts text into words. Ref: Tekkenizer of mistral-common 1.13.
#pragma once

#include <string>

#include "core/value.h"

namespace lema {

// The parsed file `place` as a tokenizer.json. Ids: the special tokens by rank, then the
// vocabulary, as far as default_vocab_size goes. Special tokens that the file does not name: those
// of mistral-common up to version v7, then <SPECIAL_i>. BadInput with the place for what is
// malformed.
Value tekken_tokenizer_json(const Value& file, const std::string& place);

}  // namespace lema
