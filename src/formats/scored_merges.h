// The merges of a BPE vocabulary that a SentencePiece model or a GGUF file states as scores.
// Used by the readers that rebuild a standard tokenizer.json from such a vocabulary.
#pragma once

#include <string>
#include <vector>

#include "core/value.h"

namespace lema {

// tokenizer.json's "merges", each ["left", "right"]: every way to cut a token between two
// characters into two tokens. Order: score of the product, then characters of the left part, then
// of the right part, all from high to low; equal ones by the ids of product, left and right.
// tokens: (V), index = id, each valid UTF-8 and there once; scores: (V), no NaN. BadInput at
// `place`: more than 8 M merges, or tokens so long that finding them would take minutes.
// Ref: generate_merges of transformers with scores; SentencePiece itself ranks products only.
Value::Array scored_merges(const std::vector<std::string>& tokens,
                           const std::vector<double>& scores, const std::string& place);

}  // namespace lema
