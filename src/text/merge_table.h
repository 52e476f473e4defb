// The merges of a BPE model: a hash table by pairs of tokens. Open addressing, filled while the
// model is loaded, then constant. Used by Bpe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace lema {

// (left id, right id) -> rank and product.
class MergeTable {
 public:
  struct Merge {
    int32_t rank = -1;  // < 0: no such merge
    int32_t product = -1;
  };
  struct Pair {
    int32_t left, right;
    Merge merge;
  };
  MergeTable() { fill({}); }
  // Replaces what the table holds. The index of the first pair that is in `pairs` before, -1 when
  // all are different.
  int64_t fill(std::span<const Pair> pairs);
  Merge find(int32_t left, int32_t right) const {
    for (size_t at = place(left, right);; at = (at + 1) & mask_)
      if (slots_[at].key == key(left, right) || slots_[at].merge.rank < 0) return slots_[at].merge;
  }

 private:
  static uint64_t key(int32_t left, int32_t right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }
  // The top bits of the product: those alone hang on every bit of both ids.
  size_t place(int32_t left, int32_t right) const {
    return static_cast<size_t>((key(left, right) * 0x9E3779B97F4A7C15u) >> shift_);
  }
  struct Slot {
    uint64_t key = 0;
    Merge merge;
  };
  std::vector<Slot> slots_;
  size_t mask_ = 0;
  int shift_ = 0;
};

}  // namespace lema
