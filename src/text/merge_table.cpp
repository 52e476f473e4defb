// Filling the table of merges, which stays at most half full, so that every search ends.
#include "text/merge_table.h"

#include <bit>

namespace lema {

int64_t MergeTable::fill(std::span<const Pair> pairs) {
  // A slot is most often neither in cache nor in the TLB: it is asked for some pairs ahead.
  constexpr size_t kAhead = 16;
  slots_.assign(std::bit_ceil(pairs.size() * 2 + 2), {});
  mask_ = slots_.size() - 1;
  shift_ = std::countl_zero(uint64_t{mask_});
  for (size_t i = 0; i < pairs.size(); ++i) {
    if (i + kAhead < pairs.size())
      __builtin_prefetch(&slots_[place(pairs[i + kAhead].left, pairs[i + kAhead].right)], 1);
    const uint64_t wanted = key(pairs[i].left, pairs[i].right);
    size_t at = place(pairs[i].left, pairs[i].right);
    for (; slots_[at].merge.rank >= 0; at = (at + 1) & mask_)
      if (slots_[at].key == wanted) return static_cast<int64_t>(i);
    slots_[at] = {wanted, pairs[i].merge};
  }
  return -1;
}

}  // namespace lema
