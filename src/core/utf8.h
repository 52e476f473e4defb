// UTF-8: validation, and stepping through text character by character. Used by the readers of files
// and by the tokenizer.
#pragma once

#include <cstddef>
#include <string_view>

namespace lema {

// What stands at the front of a non-empty byte string.
struct Utf8Unit {
  enum class Kind {
    Character,  // one whole character
    Invalid,    // bytes that begin no character: one U+FFFD (Unicode 3.9, "maximal subpart", as
                // Rust's lossy decoding)
    Cut,        // a proper prefix of a character that the end of the string cuts off
  };
  Kind kind;
  size_t bytes;
};
Utf8Unit first_unit(std::string_view bytes);

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";
// U+2581, which stands for a space in SentencePiece vocabularies.
inline constexpr std::string_view kMetaspace = "\xE2\x96\x81";

bool is_valid_utf8(std::string_view bytes);
// The character that begins at text[at] of valid UTF-8, and its length.
struct Character {
  char32_t code;
  size_t bytes;
};
Character character_at(std::string_view text, size_t at);
// The character that ends before text[end], end > 0.
Character character_before(std::string_view text, size_t end);

}  // namespace lema
