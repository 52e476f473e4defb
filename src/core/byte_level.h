// The byte-level alphabet of GPT-2: each byte is written as one printable character in
// vocabularies. Used by the tokenizer and by the readers of vocabularies that list raw bytes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace lema {

// The character that stands for `byte`: itself for 33-126, 161-172 and 174-255, the others from
// U+0100 on in order.
char32_t byte_level_character(uint8_t byte);

// `bytes` written in the alphabet, as UTF-8.
std::string byte_level_spelling(std::string_view bytes);

// Appends the bytes that `token` (valid UTF-8) stands for and returns true; false, and nothing
// appended, when it holds a character outside the alphabet.
bool append_byte_level_bytes(std::string& out, std::string_view token);

}  // namespace lema
