// Filling the tables of a BPE model. Both stay at most half full, so that every search ends.
#include "text/bpe_tables.h"

#include <bit>

namespace lema {

MergeTable::MergeTable(size_t merges) {
  slots_.resize(std::bit_ceil(merges * 2 + 1));
  mask_ = slots_.size() - 1;
}

bool MergeTable::add(int32_t left, int32_t right, Merge merge) {
  size_t at = place(left, right);
  for (; slots_[at].merge.rank >= 0; at = (at + 1) & mask_)
    if (slots_[at].key == key(left, right)) return false;
  slots_[at] = {key(left, right), merge};
  return true;
}

WordTable::WordTable(size_t words) {
  slots_.resize(std::bit_ceil(words * 2 + 1));
  mask_ = slots_.size() - 1;
}

void WordTable::add(std::string_view word, int32_t id) {
  if (find(word) >= 0) return;
  const uint64_t hash = hash_of(word);
  size_t at = hash & mask_;
  while (slots_[at].id >= 0) at = (at + 1) & mask_;
  slots_[at] = {static_cast<uint32_t>(hash >> 32), static_cast<uint32_t>(word.size()), pool_.size(),
                id};
  pool_ += word;
}

}  // namespace lema
