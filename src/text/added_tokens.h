// Added tokens: strings that are cut out of a text before the model sees it, such as <|im_end|>.
// Used by Tokenizer, once on the raw text and once on the normalised one.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace lema {

// One entry of tokenizer.json's added_tokens.
struct AddedToken {
  std::string content;
  int32_t id = -1;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and after it
  bool normalized = false;   // matches the normalised text
  bool special = false;      // skipped on decode when asked
};

class AddedTokenMatcher {
 public:
  // Matches `pattern` (the content, normalised for normalized tokens) as `token`; an empty pattern
  // matches nothing. Of two tokens with one pattern the first stays.
  void add(std::string_view pattern, const AddedToken& token);

  struct Match {
    size_t begin, end;  // bytes, stripped white space included
    int32_t id;
  };
  bool empty() const { return tokens_.empty(); }
  // The longest token that begins at text[at], nullptr when none does, whatever its flags say.
  const AddedToken* longest_at(std::string_view text, size_t at, size_t& bytes) const;
  // Leftmost, of these the longest, in order. Threads: concurrent.
  std::vector<Match> find(std::string_view text) const;

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view s) const { return std::hash<std::string_view>{}(s); }
  };

  std::unordered_map<std::string, AddedToken, Hash, std::equal_to<>> tokens_;
  std::array<std::vector<size_t>, 256>
      lengths_;  // by first byte: the lengths that occur, longest first
};

}  // namespace lema
