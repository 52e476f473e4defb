// Byte pair encoding of one word: the model of a tokenizer. Called by Tokenizer::encode for each
// pre-tokenized word, which for SentencePiece-style models is a whole text. Ref: Sennrich et al.,
// arXiv:1508.07909; merge order as the `tokenizers` library: lowest rank first, then leftmost.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/value.h"
#include "text/added_tokens.h"
#include "text/merge_table.h"
#include "text/vocabulary.h"
#include "text/word_table.h"

namespace lema {

class Bpe {
 public:
  static constexpr size_t kMaxMerges = 8'000'000;

  // `model` is tokenizer.json's; its vocabulary is added to `vocabulary`. byte_level: words come as
  // raw bytes and the vocabulary spells them in the byte-level alphabet; else a word's characters
  // are looked up as they are. Beyond tokenizer.json, for the readers of formats/tokenizer_files.h:
  // "token_ranks", an integer per id, in place of "merges": two tokens merge when their
  // concatenation is a token, lowest rank of that token first; a rank < 0 keeps a token out of all
  // merges (tiktoken, SentencePiece). "user_defined", ids of tokens that are cut out of a word
  // before it is encoded. BadInput: other models, dropout, affixes, merges of unknown tokens, a
  // pair merged twice.
  Bpe(const Value& model, bool byte_level, Vocabulary& vocabulary);

  struct Token {
    int32_t id;
    int32_t begin;  // byte offset in the word
  };
  // Working memory of encode; one per thread, reused between words.
  struct Scratch {
    struct Symbol {
      int32_t id, begin, previous,
          next;  // id < 0: merged into its left neighbour; previous, next < 0: none
    };
    struct Candidate {
      uint64_t order;                // rank << 32 | index of the left symbol
      int32_t left, right, product;  // ids
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
    std::vector<Token> tokens;
  };
  // The tokens of `word` (below 2 GiB) in scratch.tokens. O(n log n). Bytes or characters without a
  // token become their <0xHH> tokens when the model has byte fallback, else the unknown token, or
  // vanish when there is none. Threads: concurrent, with a scratch each.
  void encode(std::string_view word, Scratch& scratch) const;

 private:
  // bpe_load.cpp
  void load_characters(const Vocabulary& vocabulary);
  void load_merges(const Value::Array& merges, const Vocabulary& vocabulary);
  void derive_merges(const Value::Array& ranks, const Vocabulary& vocabulary);
  void load_user_defined(const Value::Array& ids, const Vocabulary& vocabulary);
  void load_words(const Vocabulary& vocabulary, bool ignore_merges);
  void note_product(std::string_view product);

  // bpe.cpp
  void encode_part(std::string_view part, int32_t base, Scratch& scratch) const;
  void encode_word(std::string_view word, int32_t base, Scratch& scratch) const;
  void split(std::string_view word, std::vector<Scratch::Symbol>& symbols) const;
  void merge(Scratch& scratch) const;
  void merge_few(std::vector<Scratch::Symbol>& symbols) const;
  void merge_many(Scratch& scratch) const;

  bool byte_level_;
  bool fuse_unknown_ = false;
  bool byte_fallback_ = false;
  // No merge reaches from another character to a U+2581 behind it, so a word is encoded part by
  // part.
  bool cut_before_space_ = false;
  int32_t unknown_ = -1;
  std::array<int32_t, 256> byte_ids_{};  // byte level: of the bytes; byte fallback: of <0xHH>
  std::array<int32_t, 128> ascii_{};     // not byte level: of characters; < 0: none
  std::unordered_map<char32_t, int32_t> characters_;  // and of the others
  WordTable words_;                                   // words that are one token, as encode gets
  MergeTable merges_;
  AddedTokenMatcher user_defined_;
};

}  // namespace lema
