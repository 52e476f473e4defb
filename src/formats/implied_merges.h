// Merges of a SentencePiece vocabulary, which lists tokens and no merges: what turns a GGUF
// vocabulary or a tokenizer.model into the BPE of a tokenizer.json.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lema {

struct ImpliedMerge {
  int32_t left, right;  // ids: indices into the tokens
};

// Every way to cut a token, between two characters, into two tokens, best first. With scores: by
// the score of the token they make, then the longer left part, then the longer right part. Without
// (empty): by that token's id, then the shorter left part. Equals keep the order of the tokens
// made, then of the parts' ids.
//
// tokens: distinct, valid UTF-8, by id; scores: one each or none. Linear in the bytes of the tokens
// but for the parts found. BadInput "PLACE: ..." for more merges than real vocabularies have (16 a
// token), which would let a small file ask for gigabytes.
// Ref: generate_merges of transformers' tokenization_utils_base.
std::vector<ImpliedMerge> implied_merges(std::span<const std::string> tokens,
                                         std::span<const double> scores, const std::string& place);

}  // namespace lema
