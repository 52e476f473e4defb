// Byte pair encoding of one word: the model of a tokenizer. Called by Tokenizer::encode for each
// pre-tokenized word. Ref: Sennrich et al., arXiv:1508.07909; merge order as the `tokenizers`
// library: lowest rank first, then leftmost.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/value.h"
#include "text/vocabulary.h"

namespace lema {

// (left id, right id) -> rank and product, in one open-addressed array.
class MergeTable {
 public:
  struct Merge {
    int32_t rank = -1;  // < 0: no such merge
    int32_t product = -1;
  };
  explicit MergeTable(size_t merges = 0);
  // False when the pair is there already.
  bool add(int32_t left, int32_t right, Merge merge);
  Merge find(int32_t left, int32_t right) const {
    for (size_t at = place(left, right);; at = (at + 1) & mask_)
      if (slots_[at].key == key(left, right) || slots_[at].merge.rank < 0) return slots_[at].merge;
  }

 private:
  static uint64_t key(int32_t left, int32_t right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }
  size_t place(int32_t left, int32_t right) const {
    return static_cast<size_t>((key(left, right) * 0x9E3779B97F4A7C15u) >> 20) & mask_;
  }
  struct Slot {
    uint64_t key = 0;
    Merge merge;
  };
  std::vector<Slot> slots_;
  size_t mask_ = 0;
};

class Bpe {
 public:
  static constexpr size_t kMaxMerges = 8'000'000;

  // `model` is tokenizer.json's; its vocabulary is added to `vocabulary`. byte_level: words come as
  // raw bytes and the vocabulary spells them in the byte-level alphabet; else a word's characters
  // are looked up as they are. BadInput: other models, dropout, affixes, byte fallback, merges of
  // unknown tokens, a pair merged twice.
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
  // token become the unknown token, or vanish when the model has none. Threads: concurrent, with a
  // scratch each.
  void encode(std::string_view word, Scratch& scratch) const;

 private:
  void load_merges(const Value::Array& merges, const Vocabulary& vocabulary);
  void split(std::string_view word, std::vector<Scratch::Symbol>& symbols) const;
  void merge(Scratch& scratch) const;

  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view s) const { return std::hash<std::string_view>{}(s); }
  };
  bool byte_level_;
  bool fuse_unknown_ = false;
  int32_t unknown_ = -1;
  std::array<int32_t, 256> byte_ids_{};               // byte level; < 0: none
  std::unordered_map<char32_t, int32_t> characters_;  // else
  bool ignore_merges_ = false;
  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>>
      words_;  // ignore_merges: whole words, as encode gets
  MergeTable merges_;
};

}  // namespace lema
