// The two hash tables of a BPE model: pairs of tokens that merge, and words that are one token.
// Open addressing, filled while the model is loaded, then constant. Used by Bpe.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace lema {

// (left id, right id) -> rank and product.
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

// Word -> id.
class WordTable {
 public:
  // Room for `words` words.
  explicit WordTable(size_t words = 0);
  // The first entry of a word stays.
  void add(std::string_view word, int32_t id);
  // < 0 when absent.
  int32_t find(std::string_view word) const {
    const uint64_t hash = hash_of(word);
    for (size_t at = hash & mask_;; at = (at + 1) & mask_) {
      const Slot& slot = slots_[at];
      if (slot.id < 0) return -1;
      if (slot.tag == static_cast<uint32_t>(hash >> 32) && slot.bytes == word.size() &&
          std::memcmp(pool_.data() + slot.begin, word.data(), word.size()) == 0)
        return slot.id;
    }
  }

 private:
  static uint64_t hash_of(std::string_view word) {
    uint64_t hash = word.size();
    const char* at = word.data();
    size_t left = word.size();
    for (; left > 8; left -= 8, at += 8) hash = mixed(hash, at, 8);
    return mixed(hash, at, left);
  }
  static uint64_t mixed(uint64_t hash, const char* at, size_t bytes) {
    uint64_t word = 0;
    std::memcpy(&word, at, bytes);
    hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
    return hash ^ hash >> 29;
  }
  struct Slot {
    uint32_t tag = 0, bytes = 0;
    uint64_t begin = 0;  // in pool_
    int32_t id = -1;
  };
  std::vector<Slot> slots_;
  std::string pool_;  // the words end to end
  size_t mask_ = 0;
};

}  // namespace lema
