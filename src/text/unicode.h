// The Unicode facts that tokenizers need: replacement of invalid bytes, character classes and
// normal forms. Used by the tokenizer's stages; utf8proc stays behind it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/utf8.h"

namespace lema {

// `bytes` with each invalid or cut unit replaced by U+FFFD. origin[i] = offset in `bytes` of the
// unit that byte i of the result comes from (for a kept character its own byte).
std::string replace_invalid_utf8(std::string_view bytes, std::vector<int64_t>& origin);

void append_utf8(std::string& out, char32_t code);

// Property White_Space.
bool is_space(char32_t code);
// \w of Unicode TR18: Alphabetic, marks, decimal digits, connectors and joiners.
// LIMIT: it follows the Unicode version of the utf8proc at hand (2.6 and later: at least 13).
bool is_word(char32_t code);

// Full lower-case mapping of one character in Unicode 17, without context rules.
// LIMIT: where utf8proc knows Unicode 13 only, the capitals of 14 (U+10570 and on) stay as they
// are.
void append_lower(std::string& out, char32_t code);

enum class NormalForm { NFC, NFD, NFKC, NFKD };
// Valid UTF-8 in and out; O(n log n) for any input. Characters assigned after Unicode 9 stay as
// they are, as in the `tokenizers` library.
std::string normal_form(std::string_view text, NormalForm form);

}  // namespace lema
