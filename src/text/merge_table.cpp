// Filling the table of merges, which stays at most half full, so that every search ends.
#include "text/merge_table.h"

#include <bit>

namespace lema {

MergeTable::MergeTable(size_t merges) {
  slots_.resize(std::bit_ceil(merges * 2 + 2));
  mask_ = slots_.size() - 1;
  shift_ = std::countl_zero(uint64_t{mask_});
}

bool MergeTable::add(int32_t left, int32_t right, Merge merge) {
  size_t at = place(left, right);
  for (; slots_[at].merge.rank >= 0; at = (at + 1) & mask_)
    if (slots_[at].key == key(left, right)) return false;
  slots_[at] = {key(left, right), merge};
  return true;
}

}  // namespace lema
