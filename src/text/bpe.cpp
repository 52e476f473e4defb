// Running a BPE model. A word that is one token is looked up; short words merge in a small array;
// in longer ones symbols form a linked list and a heap holds the merges that are possible, where an
// entry that its symbols have outgrown is dropped when it comes up.
#include "text/bpe.h"

#include <algorithm>

#include "text/unicode.h"

namespace lema {
namespace {

constexpr size_t kFew = 24;  // symbols: up to here scanning all pairs beats a heap

}  // namespace

void Bpe::encode(std::string_view word, Scratch& scratch) const {
  scratch.tokens.clear();
  if (user_defined_.empty()) return encode_part(word, 0, scratch);
  size_t done = 0;
  for (size_t at = 0; at < word.size();) {
    size_t bytes = 0;
    const AddedToken* token = user_defined_.longest_at(word, at, bytes);
    if (token == nullptr) {
      ++at;
      continue;
    }
    encode_part(word.substr(done, at - done), static_cast<int32_t>(done), scratch);
    scratch.tokens.push_back({token->id, static_cast<int32_t>(at)});
    done = at += bytes;
  }
  encode_part(word.substr(done), static_cast<int32_t>(done), scratch);
}

void Bpe::encode_part(std::string_view part, int32_t base, Scratch& scratch) const {
  if (part.empty()) return;
  if (!cut_before_space_) return encode_word(part, base, scratch);
  for (size_t begin = 0; begin < part.size();) {
    size_t end = begin;
    while (part.substr(end).starts_with(kMetaspace)) end += kMetaspace.size();
    end = std::min(part.find(kMetaspace, end), part.size());
    encode_word(part.substr(begin, end - begin), base + static_cast<int32_t>(begin), scratch);
    begin = end;
  }
}

void Bpe::encode_word(std::string_view word, int32_t base, Scratch& scratch) const {
  if (const int32_t id = words_.find(word); id >= 0) {
    scratch.tokens.push_back({id, base});
    return;
  }
  split(word, scratch.symbols);
  merge(scratch);
  for (const auto& symbol : scratch.symbols)
    if (symbol.id >= 0) scratch.tokens.push_back({symbol.id, base + symbol.begin});
}

void Bpe::split(std::string_view word, std::vector<Scratch::Symbol>& symbols) const {
  symbols.clear();
  const auto push = [&](int32_t id, size_t begin) {
    const auto index = static_cast<int32_t>(symbols.size());
    symbols.push_back({id, static_cast<int32_t>(begin), index - 1, index + 1});
  };
  bool after_unknown = false;
  for (size_t at = 0; at < word.size();) {
    size_t bytes = 1;
    int32_t id = -1;
    if (byte_level_) {
      id = byte_ids_[static_cast<unsigned char>(word[at])];
    } else if (const Character c = character_at(word, at); c.code < ascii_.size()) {
      id = ascii_[c.code];
    } else {
      bytes = c.bytes;
      if (const auto it = characters_.find(c.code); it != characters_.end()) id = it->second;
    }
    const std::string_view character = word.substr(at, bytes);
    const bool falls_back =
        id < 0 && byte_fallback_ && std::all_of(character.begin(), character.end(), [&](char b) {
          return byte_ids_[static_cast<unsigned char>(b)] >= 0;
        });
    const bool unknown = id < 0 && !falls_back;
    if (falls_back) {
      for (size_t i = at; i < at + bytes; ++i)
        push(byte_ids_[static_cast<unsigned char>(word[i])], i);
    } else if (!unknown) {
      push(id, at);
    } else if (unknown_ >= 0 && !(after_unknown && fuse_unknown_)) {
      push(unknown_, at);
    }
    after_unknown = unknown;
    at += bytes;
  }
  if (!symbols.empty()) symbols.back().next = -1;
}

void Bpe::merge(Scratch& scratch) const {
  if (scratch.symbols.size() <= kFew)
    merge_few(scratch.symbols);
  else
    merge_many(scratch);
}

void Bpe::merge_few(std::vector<Scratch::Symbol>& symbols) const {
  std::array<MergeTable::Merge, kFew> pairs;  // pairs[i]: what symbols i and i + 1 merge to
  size_t n = symbols.size();
  for (size_t i = 0; i + 1 < n; ++i) pairs[i] = merges_.find(symbols[i].id, symbols[i + 1].id);
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i)  // no merge is the largest unsigned rank
      if (static_cast<uint32_t>(pairs[i].rank) < static_cast<uint32_t>(pairs[best].rank)) best = i;
    if (pairs[best].rank < 0) break;
    symbols[best].id = pairs[best].product;
    for (size_t i = best + 1; i + 1 < n; ++i) {
      symbols[i] = symbols[i + 1];
      pairs[i] = pairs[i + 1];
    }
    --n;
    if (best > 0) pairs[best - 1] = merges_.find(symbols[best - 1].id, symbols[best].id);
    if (best + 1 < n) pairs[best] = merges_.find(symbols[best].id, symbols[best + 1].id);
  }
  symbols.resize(n);
}

void Bpe::merge_many(Scratch& scratch) const {
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  const auto at = [&](int32_t i) -> Scratch::Symbol& { return symbols[static_cast<size_t>(i)]; };
  const auto later = [](const Scratch::Candidate& a, const Scratch::Candidate& b) {
    return a.order > b.order;
  };
  const auto candidate = [&](int32_t left) {
    const int32_t right = at(left).next;
    if (right < 0) return false;
    const MergeTable::Merge merge = merges_.find(at(left).id, at(right).id);
    if (merge.rank < 0) return false;
    heap.push_back({uint64_t{static_cast<uint32_t>(merge.rank)} << 32 | static_cast<uint32_t>(left),
                    at(left).id, at(right).id, merge.product});
    return true;
  };

  heap.clear();
  for (size_t i = 0; i < symbols.size(); ++i) candidate(static_cast<int32_t>(i));
  std::make_heap(heap.begin(), heap.end(), later);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const Scratch::Candidate best = heap.back();
    heap.pop_back();
    const auto left = static_cast<int32_t>(best.order & 0xFFFFFFFFu);
    const int32_t right = at(left).next;
    if (at(left).id < 0 || right < 0) continue;
    // As in the reference an outgrown entry counts when the pair in its place has the same product.
    if ((at(left).id != best.left || at(right).id != best.right) &&
        merges_.find(at(left).id, at(right).id).product != best.product)
      continue;
    at(left).id = best.product;
    at(left).next = at(right).next;
    at(right).id = -1;
    if (at(left).next >= 0) at(at(left).next).previous = left;
    if (at(left).previous >= 0 && candidate(at(left).previous))
      std::push_heap(heap.begin(), heap.end(), later);
    if (candidate(left)) std::push_heap(heap.begin(), heap.end(), later);
  }
}

}  // namespace lema
