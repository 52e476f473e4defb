// A hash table from words to ids that keeps the words end to end in one string: a look-up touches
// one slot and one word. Open addressing, filled while a tokenizer is loaded, then constant. Under
// Vocabulary and Bpe.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace lema {

class WordTable {
 public:
  WordTable() : slots_(2), mask_(1) {}
  // False, and nothing changes, when the word is there already. id >= 0.
  bool add(std::string_view word, int32_t id);
  // < 0 when absent.
  int32_t find(std::string_view word) const { return slots_[place(word, hash_of(word))].id; }
  // Where the last word that was added stands in text().
  struct Span {
    uint32_t begin = 0, bytes = 0;
  };
  Span last() const { return last_; }
  std::string_view text(Span span) const {
    return std::string_view(pool_).substr(span.begin, span.bytes);
  }
  size_t count() const { return count_; }

 private:
  static uint32_t hash_of(std::string_view word) {
    uint64_t hash = word.size();
    const char* at = word.data();
    size_t left = word.size();
    for (; left > 8; left -= 8, at += 8) hash = mixed(hash, load<uint64_t>(at));
    uint64_t rest = 0;  // the last bytes; where they are read twice every length reads its own way
    if (left >= 4)
      rest = uint64_t{load<uint32_t>(at)} << 32 | load<uint32_t>(at + left - 4);
    else if (left > 0)
      rest = uint64_t{load<uint8_t>(at)} << 16 | uint64_t{load<uint8_t>(at + left / 2)} << 8 |
             load<uint8_t>(at + left - 1);
    return static_cast<uint32_t>(mixed(hash, rest));
  }
  static uint64_t mixed(uint64_t hash, uint64_t word) {
    hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
    return hash ^ hash >> 29;
  }
  template <typename T>
  static T load(const char* at) {
    T x;
    std::memcpy(&x, at, sizeof x);
    return x;
  }
  // The slot of the word, or the empty one where it belongs.
  size_t place(std::string_view word, uint32_t hash) const {
    for (size_t at = hash & mask_;; at = (at + 1) & mask_) {
      const Slot& slot = slots_[at];
      if (slot.id < 0 || (slot.hash == hash && text(slot.word) == word)) return at;
    }
  }
  void grow();

  struct Slot {
    uint32_t hash = 0;
    int32_t id = -1;  // < 0: empty
    Span word;
  };
  std::vector<Slot> slots_;  // at most half full, so that every search ends
  std::string pool_;         // the words end to end
  size_t mask_, count_ = 0;
  Span last_;
};

}  // namespace lema
