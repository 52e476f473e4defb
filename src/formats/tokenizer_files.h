// The tokenizer of a model folder, whatever file holds it. Called by the loader of a folder's text
// (data/model_text).
#pragma once

#include <optional>
#include <string>

#include "core/value.h"
#include "formats/folder_reader.h"

namespace lema {

struct TokenizerFile {
  std::string name;      // "tokenizer.json", "tokenizer.model", ...
  Value json;            // as tokenizer.json, see formats/tokenizer_parts.h
  std::string bos, eos;  // of the kind of tokenizer, where the configs name none; "" when unknown
};

// The first that is there: tokenizer.json; tekken.json; tokenizer.model (SentencePiece or
// tiktoken, by its content); the one *.tiktoken; vocab.json with merges.txt. nullopt when none is.
//
// With all but tokenizer.json: tokenizer_config.json (`config`, null when absent) says by
// add_bos_token and add_eos_token what frames a text; where it does not, BOS is added where the
// model's own code adds it (SentencePiece models, Llama-3, Llama-4, tekken).
// With all: the tokens that it, special_tokens_map.json (`special_map`, possibly null) and
// added_tokens.json name are tokens, see formats/config_tokens.h.
// tokenizer.json: GPT2Tokenizer's add_prefix_space overrules the file's; the keys that this project
// alone writes (formats/tokenizer_parts.h) are refused.
// A tokenizer.model puts its U+2581 before every stretch of text between special tokens when
// `legacy` is true or there is no config, else only where a text begins; add_prefix_space = false
// takes it away.
// BadInput with the file and the place for malformed files and for kinds that are not supported.
std::optional<TokenizerFile> read_tokenizer_file(FolderReader& folder, const Value* config,
                                                 const Value* special_map);

// Whether one of these files is there, sound or not.
bool has_tokenizer(const FolderReader& folder);

}  // namespace lema
