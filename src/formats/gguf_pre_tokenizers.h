// How byte-level vocabularies cut a text into words, by name: GGUF files only name it
// (tokenizer.ggml.pre), tiktoken files say nothing. Called by gguf_tokenizer and the readers of
// ranked tokens.
#pragma once

#include <array>
#include <string_view>

#include "core/value.h"
#include "formats/json_fields.h"

namespace lema {

struct GgufPreTokenizer {
  std::string_view name;
  // Regexes that cut one after the other, each what the one before left; none: ByteLevel's own.
  std::array<std::string_view, 6> splits = {};
  bool digits = false;         // digits are singled out first
  bool nfc = false;            // the tokenizer normalises its text
  bool ignore_merges = false;  // a word that is a token is that token, whatever the merges say
  bool adds_bos = false;       // when tokenizer.ggml.add_bos_token is absent
};

// The one that the metadata names; GPT-2's for a gpt2 file without the key. BadInput, listing what
// is supported, for any other.
const GgufPreTokenizer& gguf_pre_tokenizer(const JsonFields& metadata);

// The one of that name, which is supported.
const GgufPreTokenizer& named_pre_tokenizer(std::string_view name);

// tokenizer.json's pre_tokenizer section.
Value pre_tokenizer_json(const GgufPreTokenizer& pre);

// A ByteLevel stage, of a pre-tokenizer or as the decoder.
Value byte_level_json(bool add_prefix_space, bool use_regex);

}  // namespace lema
