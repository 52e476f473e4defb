// UTF-8 decoding after Unicode table 3-7.
#include "core/utf8.h"

namespace lema {

Utf8Unit first_unit(std::string_view bytes) {
  using Kind = Utf8Unit::Kind;
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {Kind::Character, 1};
  size_t length = 0;
  unsigned char low = 0x80, high = 0xBF;  // of the second byte
  if (lead >= 0xC2 && lead <= 0xDF) length = 2;
  if (lead >= 0xE0 && lead <= 0xEF) length = 3;
  if (lead >= 0xF0 && lead <= 0xF4) length = 4;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  if (length == 0) return {Kind::Invalid, 1};
  for (size_t i = 1; i < length; ++i) {
    if (i == bytes.size()) return {Kind::Cut, i};
    if (byte(i) < low || byte(i) > high) return {Kind::Invalid, i};
    low = 0x80, high = 0xBF;
  }
  return {Kind::Character, length};
}

bool is_valid_utf8(std::string_view bytes) {
  for (size_t at = 0; at < bytes.size();) {
    if (static_cast<unsigned char>(bytes[at]) < 0x80) {
      ++at;
      continue;
    }
    const Utf8Unit unit = first_unit(bytes.substr(at));
    if (unit.kind != Utf8Unit::Kind::Character) return false;
    at += unit.bytes;
  }
  return true;
}

Character character_at(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return char32_t{static_cast<unsigned char>(text[at + i])}; };
  const char32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  if (lead < 0xE0) return {(lead & 0x1F) << 6 | (byte(1) & 0x3F), 2};
  if (lead < 0xF0) return {(lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F), 3};
  return {(lead & 7) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F), 4};
}

Character character_before(std::string_view text, size_t end) {
  size_t at = end - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return character_at(text, at);
}

}  // namespace lema
