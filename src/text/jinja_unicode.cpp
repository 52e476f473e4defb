// Python's str rules over utf8proc: UTF-8 decoding, white space, case mapping and line ends.
// utf8proc maps one code point to one, so the multi-letter upper-case forms are taken from its full
// case folding.
#include "text/jinja_unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace lema::jinja {

int32_t next_code_point(std::string_view text, size_t& at) {
  const auto byte = static_cast<unsigned char>(text[at]);
  if (byte < 0x80) {
    ++at;
    return byte;
  }
  utf8proc_int32_t out = -1;
  const auto rest = static_cast<utf8proc_ssize_t>(text.size() - at);
  const auto* p = reinterpret_cast<const utf8proc_uint8_t*>(text.data() + at);
  const utf8proc_ssize_t used = utf8proc_iterate(p, rest, &out);
  if (used <= 0) {
    ++at;
    return 0xFFFD;
  }
  at += static_cast<size_t>(used);
  return out;
}

void append_code_point(std::string& out, int32_t code_point) {
  std::array<utf8proc_uint8_t, 4> bytes{};
  const utf8proc_ssize_t n = utf8proc_encode_char(code_point, bytes.data());
  out.append(reinterpret_cast<const char*>(bytes.data()), static_cast<size_t>(n));
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<signed char>(c) >= 0; });
}

int64_t code_points(std::string_view text) {
  if (is_ascii(text)) return static_cast<int64_t>(text.size());
  int64_t n = 0;
  for (size_t at = 0; at < text.size(); ++n) next_code_point(text, at);
  return n;
}

size_t byte_offset(std::string_view text, int64_t index) {
  if (is_ascii(text)) return static_cast<size_t>(index);
  size_t at = 0;
  for (int64_t i = 0; i < index && at < text.size(); ++i) next_code_point(text, at);
  return at;
}

std::vector<int32_t> decode(std::string_view text) {
  std::vector<int32_t> out;
  for (size_t at = 0; at < text.size();) out.push_back(next_code_point(text, at));
  return out;
}

size_t find_first(std::string_view text, std::string_view part, size_t from) {
  if (part.empty() || from >= text.size()) return text.find(part, from);
  const void* found = memmem(text.data() + from, text.size() - from, part.data(), part.size());
  return found ? static_cast<size_t>(static_cast<const char*>(found) - text.data()) : text.npos;
}

size_t find_last(std::string_view text, std::string_view part) {
  if (part.size() > text.size()) return text.npos;
  const std::string back(text.rbegin(), text.rend()), back_part(part.rbegin(), part.rend());
  const size_t found = find_first(back, back_part);
  return found == text.npos ? text.npos : text.size() - part.size() - found;
}

bool is_space(int32_t c) {
  return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

std::string_view lstrip(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    size_t next = at;
    if (!is_space(next_code_point(text, next))) break;
    at = next;
  }
  return text.substr(at);
}

std::string_view rstrip(std::string_view text) {
  while (!text.empty()) {
    size_t start = text.size() - 1;
    while (start > 0 && (static_cast<unsigned char>(text[start]) & 0xC0) == 0x80) --start;
    size_t at = start;
    if (!is_space(next_code_point(text, at))) break;
    text.remove_suffix(text.size() - start);
  }
  return text;
}

bool is_letter(int32_t c) {
  const utf8proc_category_t k = utf8proc_category(c);
  return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}
bool is_decimal(int32_t c) { return utf8proc_category(c) == UTF8PROC_CATEGORY_ND; }
bool is_upper(int32_t c) { return utf8proc_category(c) == UTF8PROC_CATEGORY_LU; }
bool is_lower(int32_t c) { return utf8proc_category(c) == UTF8PROC_CATEGORY_LL; }

bool is_printable(int32_t c) {
  if (c == ' ') return true;
  switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    default:
      return true;
  }
}

namespace {

bool is_title(int32_t c) { return utf8proc_category(c) == UTF8PROC_CATEGORY_LT; }
bool is_cased(int32_t c) { return is_upper(c) || is_lower(c) || is_title(c); }

// Unicode's Case_Ignorable: marks, format characters, modifiers and a few word-internal signs.
bool is_case_ignorable(int32_t c) {
  switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
      return true;
    default:
      return c == '\'' || c == '.' || c == ':' || c == 0xB7 || c == 0x2018 || c == 0x2019 ||
             c == 0x2024;
  }
}

// The full folding of one code point where it has more than one letter, else empty.
std::vector<int32_t> expansion(int32_t c) {
  if (c < 0x80 || is_upper(c)) return {};
  std::array<utf8proc_int32_t, 8> out{};
  int boundary = 0;
  const utf8proc_ssize_t n = utf8proc_decompose_char(
      c, out.data(), static_cast<utf8proc_ssize_t>(out.size()), UTF8PROC_CASEFOLD, &boundary);
  if (n < 2 || n > static_cast<utf8proc_ssize_t>(out.size())) return {};
  return {out.begin(), out.begin() + n};
}

void append_upper(std::string& out, int32_t c) {
  const std::vector<int32_t> letters = expansion(c);
  if (letters.empty()) return append_code_point(out, utf8proc_toupper(c));
  for (const int32_t letter : letters) append_code_point(out, utf8proc_toupper(letter));
}

// Only the first letter of an expansion is capital; code points with a title-case form of their own
// keep it.
void append_title(std::string& out, int32_t c) {
  const std::vector<int32_t> letters = expansion(c);
  const int32_t title = utf8proc_totitle(c);
  if (letters.empty() || is_title(title)) return append_code_point(out, title);
  append_code_point(out, utf8proc_totitle(letters[0]));
  for (size_t i = 1; i < letters.size(); ++i) append_code_point(out, letters[i]);
}

// A capital sigma ends a word when a cased letter stands before it and none after, case-ignorables
// skipped.
bool is_final_sigma(const std::vector<int32_t>& text, size_t at) {
  size_t before = at;
  while (before > 0 && is_case_ignorable(text[before - 1])) --before;
  if (before == 0 || !is_cased(text[before - 1])) return false;
  size_t after = at + 1;
  while (after < text.size() && is_case_ignorable(text[after])) ++after;
  return after == text.size() || !is_cased(text[after]);
}

void append_lower(std::string& out, const std::vector<int32_t>& text, size_t at) {
  const int32_t c = text[at];
  if (c == 0x130) {
    out += "i\xCC\x87";
  } else if (c == 0x3A3) {
    append_code_point(out, is_final_sigma(text, at) ? 0x3C2 : 0x3C3);
  } else {
    append_code_point(out, utf8proc_tolower(c));
  }
}

}  // namespace

std::string to_upper(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) append_upper(out, next_code_point(text, at));
  return out;
}

std::string to_lower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  const std::vector<int32_t> letters = decode(text);
  for (size_t i = 0; i < letters.size(); ++i) append_lower(out, letters, i);
  return out;
}

std::string to_title(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  const std::vector<int32_t> letters = decode(text);
  bool inside = false;
  for (size_t i = 0; i < letters.size(); ++i) {
    if (inside) {
      append_lower(out, letters, i);
    } else {
      append_title(out, letters[i]);
    }
    inside = is_cased(letters[i]);
  }
  return out;
}

std::string capitalize(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  const std::vector<int32_t> letters = decode(text);
  if (!letters.empty()) append_title(out, letters[0]);
  for (size_t i = 1; i < letters.size(); ++i) append_lower(out, letters, i);
  return out;
}

std::string swap_case(std::string_view text) {
  std::string out;
  const std::vector<int32_t> letters = decode(text);
  for (size_t i = 0; i < letters.size(); ++i) {
    if (is_upper(letters[i])) {
      append_lower(out, letters, i);
    } else if (is_lower(letters[i])) {
      append_upper(out, letters[i]);
    } else {
      append_code_point(out, letters[i]);
    }
  }
  return out;
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> out;
  size_t start = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = at;
    const int32_t c = next_code_point(text, at);
    const bool is_end =
        (c >= 10 && c <= 13) || (c >= 28 && c <= 30) || c == 0x85 || c == 0x2028 || c == 0x2029;
    if (!is_end) continue;
    if (c == '\r' && at < text.size() && text[at] == '\n') ++at;
    out.push_back(text.substr(start, (keep_ends ? at : end) - start));
    start = at;
  }
  if (start < text.size()) out.push_back(text.substr(start));
  return out;
}

}  // namespace lema::jinja
