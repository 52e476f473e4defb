// vocab.json + merges.txt: byte-level BPE in the files of GPT-2, which Qwen2 and others kept.
#pragma once

#include <string>
#include <string_view>

#include "core/value.h"

namespace lema {

// `vocab` is the parsed vocab.json {token: id}, `merges` the text of merges.txt: "#version" line,
// then "left right" per line, best first. tokenizer_class says how text is cut into words
// (GPT2Tokenizer, CodeGenTokenizer, Qwen2Tokenizer, each also with "Fast" behind it). BadInput
// "PLACE/vocab.json: ..." or "PLACE/merges.txt:LINE: ...": other classes by name, ids that are no
// integers or given twice, lines that are no pair of tokens that make a token, pairs given twice.
Value vocab_merges_tokenizer_json(const Value& vocab, std::string_view merges,
                                  const std::string& tokenizer_class, bool add_prefix_space,
                                  const std::string& place);

}  // namespace lema
