// Classes and normal forms through utf8proc.
#include "text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>

#include "core/error.h"

namespace lema {

std::string replace_invalid_utf8(std::string_view bytes, std::vector<int64_t>& origin) {
  std::string out;
  out.reserve(bytes.size());
  origin.clear();
  for (size_t at = 0; at < bytes.size();) {
    const Utf8Unit unit = first_unit(bytes.substr(at));
    if (unit.kind == Utf8Unit::Kind::Character) {
      out += bytes.substr(at, unit.bytes);
      for (size_t i = 0; i < unit.bytes; ++i) origin.push_back(static_cast<int64_t>(at + i));
    } else {
      out += kReplacementCharacter;
      origin.insert(origin.end(), kReplacementCharacter.size(), static_cast<int64_t>(at));
    }
    at += unit.bytes;
  }
  return out;
}

void append_utf8(std::string& out, char32_t code) {
  std::array<utf8proc_uint8_t, 4> bytes{};
  const auto n = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code), bytes.data());
  out.append(bytes.begin(), bytes.begin() + n);
}

bool is_space(char32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_word(char32_t c) {
  const auto in = [c](char32_t first, char32_t last) { return c >= first && c <= last; };
  if (in(0x200C, 0x200D)) return true;
  // Alphabetic by Other_Alphabetic though their category is So: circled and squared letters.
  if (in(0x24B6, 0x24E9) || in(0x1F130, 0x1F149) || in(0x1F150, 0x1F169) || in(0x1F170, 0x1F189))
    return true;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

namespace {

// Lower case that Unicode 16 and 17 assigned: the characters from first to last go to those from
// lower on. Rust, and so the `tokenizers` library, knows them; the utf8proc of distributions does
// not.
struct Lowering {
  char32_t first, last, lower;
};
constexpr auto kNewerLower = std::to_array<Lowering>({
    {0x1C89, 0x1C89, 0x1C8A}, {0xA7CB, 0xA7CB, 0x264}, {0xA7CC, 0xA7CC, 0xA7CD},
    {0xA7CE, 0xA7CE, 0xA7CF}, {0xA7D2, 0xA7D2, 0xA7D3}, {0xA7D4, 0xA7D4, 0xA7D5},
    {0xA7DA, 0xA7DA, 0xA7DB}, {0xA7DC, 0xA7DC, 0x19B}, {0x10D50, 0x10D65, 0x10D70},
    {0x16EA0, 0x16EB8, 0x16EBB},
});

}  // namespace

void append_lower(std::string& out, char32_t code) {
  if (code == 0x130) {  // the one character whose lower case is two
    out += "i\xCC\x87";
    return;
  }
  for (const Lowering& range : kNewerLower)
    if (code >= range.first && code <= range.last)
      return append_utf8(out, range.lower + (code - range.first));
  append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code))));
}

namespace {

// Characters with a decomposition, a combining class or a composition that Unicode assigned after
// version 9. The normaliser of the `tokenizers` library knows Unicode 9: there they stand apart
// from their neighbours, unchanged.
constexpr auto kAfterUnicode9 = std::to_array<std::pair<char32_t, char32_t>>({
    {0x7FD, 0x7FD},     {0x897, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},
    {0xC3C, 0xC3C},     {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},
    {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},   {0x32FF, 0x32FF},   {0xA7F2, 0xA7F4},
    {0xA82C, 0xA82C},   {0xAB69, 0xAB69},   {0x105C0, 0x105F3}, {0x10781, 0x107BA},
    {0x10D24, 0x10D27}, {0x10D69, 0x10D6D}, {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF},
    {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B},
    {0x11380, 0x113E2}, {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11930, 0x11943},
    {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99},
    {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x11F41, 0x11F42},
    {0x16100, 0x1612F}, {0x16D40, 0x16D6A}, {0x16FF0, 0x16FF1}, {0x1CCD6, 0x1CCF9},
    {0x1E030, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF},
    {0x1E4EC, 0x1E4EF}, {0x1E5EE, 0x1E5EF}, {0x1F16C, 0x1F16C}, {0x1FBF0, 0x1FBF9},
});

bool is_inert(char32_t c) {
  if (c < kAfterUnicode9.front().first) return false;
  const auto range = std::lower_bound(kAfterUnicode9.begin(), kAfterUnicode9.end(), c,
                                      [](const auto& r, char32_t x) { return r.second < x; });
  return range != kAfterUnicode9.end() && range->first <= c;
}

void append_decomposed(std::vector<utf8proc_int32_t>& codes, char32_t code, bool compatible) {
  const int options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0);
  std::array<utf8proc_int32_t, 32> parts{};  // 18 is the longest decomposition
  int last_boundary = 0;
  const auto n = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(code), parts.data(),
                                         static_cast<utf8proc_ssize_t>(parts.size()),
                                         static_cast<utf8proc_option_t>(options), &last_boundary);
  check(n >= 0 && n <= static_cast<utf8proc_ssize_t>(parts.size()), "decomposition of U+{:04X}",
        static_cast<uint32_t>(code));
  codes.insert(codes.end(), parts.begin(), parts.begin() + n);
}

// Canonical ordering by a stable sort of each run of marks: utf8proc's own is quadratic in the run.
void order_marks(std::vector<utf8proc_int32_t>& codes) {
  const auto mark = [](utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; };
  for (auto begin = codes.begin(); begin != codes.end();) {
    if (mark(*begin) == 0) {
      ++begin;
      continue;
    }
    const auto end = std::find_if(begin, codes.end(), [&](auto c) { return mark(c) == 0; });
    std::stable_sort(begin, end, [&](auto a, auto b) { return mark(a) < mark(b); });
    begin = end;
  }
}

}  // namespace

std::string normal_form(std::string_view text, NormalForm form) {
  const bool compatible = form == NormalForm::NFKC || form == NormalForm::NFKD;
  const bool compose = form == NormalForm::NFC || form == NormalForm::NFKC;
  std::string out;
  out.reserve(text.size());
  std::vector<utf8proc_int32_t> codes;  // decomposed, since the last inert character
  const auto flush = [&] {
    order_marks(codes);
    auto count = static_cast<utf8proc_ssize_t>(codes.size());
    if (compose)
      count = utf8proc_normalize_utf32(
          codes.data(), count, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    for (utf8proc_ssize_t i = 0; i < count; ++i)
      append_utf8(out, static_cast<char32_t>(codes[static_cast<size_t>(i)]));
    codes.clear();
  };
  for (size_t at = 0; at < text.size();) {
    const Character c = character_at(text, at);
    at += c.bytes;
    if (!is_inert(c.code)) {
      append_decomposed(codes, c.code, compatible);
      continue;
    }
    flush();
    append_utf8(out, c.code);
  }
  flush();
  return out;
}

}  // namespace lema
