// Search for added tokens: one table look-up per byte, hashing only where a token may begin.
#include "text/added_tokens.h"

#include <algorithm>

#include "text/unicode.h"

namespace lema {

void AddedTokenMatcher::add(std::string_view pattern, const AddedToken& token) {
  if (pattern.empty() || !tokens_.emplace(pattern, token).second) return;
  auto& lengths = lengths_[static_cast<unsigned char>(pattern[0])];
  const auto place =
      std::lower_bound(lengths.begin(), lengths.end(), pattern.size(), std::greater<>());
  if (place == lengths.end() || *place != pattern.size()) lengths.insert(place, pattern.size());
}

const AddedToken* AddedTokenMatcher::longest_at(std::string_view text, size_t at,
                                                size_t& bytes) const {
  for (const size_t length : lengths_[static_cast<unsigned char>(text[at])]) {
    if (length > text.size() - at) continue;
    const auto it = tokens_.find(text.substr(at, length));
    if (it == tokens_.end()) continue;
    bytes = length;
    return &it->second;
  }
  return nullptr;
}

std::vector<AddedTokenMatcher::Match> AddedTokenMatcher::find(std::string_view text) const {
  std::vector<Match> matches;
  if (tokens_.empty()) return matches;
  size_t taken = 0;  // end of the last match
  for (size_t at = 0; at < text.size();) {
    size_t bytes = 0;
    const AddedToken* token = longest_at(text, at, bytes);
    if (token == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at, end = at + bytes;
    at = end;  // a refused match is passed over as a whole
    if (token->single_word) {
      const bool word_before = begin > 0 && is_word(character_before(text, begin).code);
      const bool word_after = end < text.size() && is_word(character_at(text, end).code);
      if (word_before || word_after) continue;
    }
    while (token->lstrip && begin > taken) {
      const Character c = character_before(text, begin);
      if (!is_space(c.code)) break;
      begin -= c.bytes;
    }
    while (token->rstrip && end < text.size()) {
      const Character c = character_at(text, end);
      if (!is_space(c.code)) break;
      end += c.bytes;
    }
    matches.push_back({begin, end, token->id});
    taken = end;
  }
  return matches;
}

}  // namespace lema
