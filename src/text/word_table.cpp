// Filling a table of words.
#include "text/word_table.h"

#include <limits>

#include "core/error.h"

namespace lema {

bool WordTable::add(std::string_view word, int32_t id) {
  check(pool_.size() + word.size() <= std::numeric_limits<uint32_t>::max(),
        "the words of a tokenizer take more than 4 GiB");
  if ((count_ + 1) * 2 > slots_.size()) grow();
  const uint32_t hash = hash_of(word);
  Slot& slot = slots_[place(word, hash)];
  if (slot.id >= 0) return false;
  last_ = {static_cast<uint32_t>(pool_.size()), static_cast<uint32_t>(word.size())};
  slot = {hash, id, last_};
  pool_ += word;
  ++count_;
  return true;
}

void WordTable::grow() {
  std::vector<Slot> grown(slots_.size() * 2);
  mask_ = grown.size() - 1;
  for (const Slot& slot : slots_) {
    if (slot.id < 0) continue;
    size_t at = slot.hash & mask_;
    while (grown[at].id >= 0) at = (at + 1) & mask_;
    grown[at] = slot;
  }
  slots_ = std::move(grown);
}

}  // namespace lema
