// The two tables of the byte-level alphabet, computed at compile time.
#include "core/byte_level.h"

#include <array>

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

std::string byte_level_spelling(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() + bytes.size() / 4);
  for (const char byte : bytes) {
    const char32_t c = byte_level_character(static_cast<uint8_t>(byte));
    if (c >= 0x80) out += static_cast<char>(0xC0 | c >> 6);
    out += static_cast<char>(c >= 0x80 ? 0x80 | (c & 0x3F) : c);
  }
  return out;
}

// Every character of the alphabet takes one or two bytes of UTF-8.
bool append_byte_level_bytes(std::string& out, std::string_view token) {
  const size_t before = out.size();
  for (size_t at = 0; at < token.size(); ++at) {
    auto c = static_cast<unsigned char>(token[at]);
    char32_t code = c;
    if (c >= 0xC0 && at + 1 < token.size())
      code = (c & 0x1Fu) << 6 | (static_cast<unsigned char>(token[++at]) & 0x3Fu);
    const int16_t byte =
        c < 0xE0 && code < kAlphabetEnd ? kAlphabet.byte[code] : int16_t{-1};
    if (byte < 0) {
      out.resize(before);
      return false;
    }
    out += static_cast<char>(byte);
  }
  return true;
}

}  // namespace lema
