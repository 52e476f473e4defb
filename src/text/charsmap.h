// The precompiled character map of a SentencePiece model: stretches of text and what each becomes
// (NFKC and the like). Used by SentencePieceRules.
//
//   map  = u32 trie_bytes, trie, strings     strings end in NUL; all numbers little-endian
//   trie = u32 units of a double array (Aoe, "An efficient digital search algorithm by using a
//          double-array structure", 1989; the layout of Darts-clone): bit 31 leaf; bits 0-7 label;
//          bit 8 has a leaf; bits 10-30 offset, bit 9 shifts it by 8
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lema {

class CharsMap {
 public:
  // `map` are the bytes of precompiled_charsmap. BadInput at `place` when they are no such map.
  CharsMap(std::string_view map, const std::string& place);

  struct Match {
    size_t bytes = 0;  // of the text; 0: no match
    std::string_view replacement;
  };
  // The longest entry, of at most 256 bytes, that begins at text[at]. Threads: concurrent.
  Match longest_at(std::string_view text, size_t at) const;

 private:
  std::vector<uint32_t> trie_;
  std::string strings_;
};

}  // namespace lema
