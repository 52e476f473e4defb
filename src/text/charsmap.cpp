// Walking the double array of a SentencePiece character map, every index checked.
#include "text/charsmap.h"

#include <algorithm>

#include "core/error.h"
#include "text/unicode.h"

namespace lema {
namespace {

uint32_t unit_at(std::string_view bytes, size_t at) {
  uint32_t unit = 0;
  for (size_t i = 0; i < 4; ++i)
    unit |= uint32_t{static_cast<unsigned char>(bytes[at + i])} << (8 * i);
  return unit;
}

uint32_t label(uint32_t unit) { return unit & 0x8000'00FFu; }
bool has_leaf(uint32_t unit) { return (unit >> 8 & 1) != 0; }
uint32_t value(uint32_t unit) { return unit & 0x7FFF'FFFFu; }
uint32_t offset(uint32_t unit) { return unit >> 10 << ((unit & 0x200u) >> 6); }
// LIMIT: bytes of an entry; a trie with a loop would else match as long as the text is. The maps of
// published models have entries of less than 32.
constexpr size_t kMaxEntryBytes = 256;

bool continues(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

}  // namespace

CharsMap::CharsMap(std::string_view map, const std::string& place) {
  const size_t trie_bytes = map.size() < 4 ? 0 : unit_at(map, 0);
  if (trie_bytes == 0 || trie_bytes % 4 != 0 || trie_bytes > map.size() - 4)
    fail(ErrorCode::BadInput, "{}: a character map of {} bytes says that its trie has {}", place,
         map.size(), trie_bytes);
  trie_.resize(trie_bytes / 4);
  for (size_t i = 0; i < trie_.size(); ++i) trie_[i] = unit_at(map, 4 + 4 * i);
  strings_ = map.substr(4 + trie_bytes);
  if (!is_valid_utf8(strings_))
    fail(ErrorCode::BadInput, "{}: the strings of the character map are not UTF-8", place);
}

CharsMap::Match CharsMap::longest_at(std::string_view text, size_t at) const {
  size_t bytes = 0, string = 0;
  size_t node = offset(trie_[0]);
  const size_t end = at + std::min(text.size() - at, kMaxEntryBytes);
  for (size_t i = at; i < end; ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    node ^= byte;
    if (node >= trie_.size() || label(trie_[node]) != byte) break;
    const uint32_t unit = trie_[node];
    node ^= offset(unit);
    if (!has_leaf(unit) || node >= trie_.size()) continue;
    const size_t begin = value(trie_[node]);
    // Only a malformed map points into a character, or out of its strings.
    if (begin >= strings_.size() || continues(strings_[begin])) continue;
    if (i + 1 < text.size() && continues(text[i + 1])) continue;
    bytes = i + 1 - at;
    string = begin;
  }
  return bytes > 0 ? Match{bytes, strings_.c_str() + string} : Match{};
}

}  // namespace lema
