// The two tables of the byte-level alphabet, computed at compile time.
#include "text/byte_level.h"

#include <array>

#include "text/unicode.h"

namespace lema {
namespace {

constexpr char32_t kAlphabetEnd = 0x144;

struct Alphabet {
  std::array<char32_t, 256> character{};
  std::array<int16_t, kAlphabetEnd> byte{};
};

constexpr Alphabet make_alphabet() {
  Alphabet a;
  for (auto& b : a.byte) b = -1;
  char32_t next = 0x100;
  for (unsigned b = 0; b < 256; ++b) {
    const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    const char32_t c = printable ? char32_t{b} : next++;
    a.character[b] = c;
    a.byte[c] = static_cast<int16_t>(b);
  }
  return a;
}

constexpr Alphabet kAlphabet = make_alphabet();

}  // namespace

char32_t byte_level_character(uint8_t byte) { return kAlphabet.character[byte]; }

bool append_byte_level_bytes(std::string& out, std::string_view token) {
  const size_t before = out.size();
  for (size_t at = 0; at < token.size();) {
    const Character c = character_at(token, at);
    const int16_t byte = c.code < kAlphabetEnd ? kAlphabet.byte[c.code] : int16_t{-1};
    if (byte < 0) {
      out.resize(before);
      return false;
    }
    out += static_cast<char>(byte);
    at += c.bytes;
  }
  return true;
}

}  // namespace lema
