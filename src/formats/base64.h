// Base64 (RFC 4648, standard alphabet, padded) to bytes: how tiktoken and tekken files spell
// tokens.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace lema {

// nullopt when `text` is not base64.
inline std::optional<std::string> base64_bytes(std::string_view text) {
  if (text.size() % 4 != 0) return std::nullopt;
  const size_t padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
  std::string bytes;
  uint32_t bits = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    uint32_t digit = 0;
    if (c >= 'A' && c <= 'Z')
      digit = static_cast<uint32_t>(c - 'A');
    else if (c >= 'a' && c <= 'z')
      digit = static_cast<uint32_t>(c - 'a') + 26;
    else if (c >= '0' && c <= '9')
      digit = static_cast<uint32_t>(c - '0') + 52;
    else if (c == '+' || c == '/')
      digit = c == '+' ? 62 : 63;
    else if (c != '=' || i + padding < text.size())
      return std::nullopt;
    bits = bits << 6 | digit;
    if (i % 4 != 3) continue;
    for (const int shift : {16, 8, 0}) bytes += static_cast<char>(bits >> shift & 0xFF);
    bits = 0;
  }
  if (padding <= bytes.size()) bytes.erase(bytes.size() - padding);
  return bytes;
}

}  // namespace lema
