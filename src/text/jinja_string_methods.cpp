// The methods of strings, with Python's results.
#include "text/jinja_string_methods.h"

#include <algorithm>
#include <unordered_map>

#include "text/jinja_unicode.h"

namespace lema::jinja {

std::string strip(std::string_view text, const Obj& chars, bool left, bool right) {
  if (!chars.is(Type::String)) {
    if (left) text = lstrip(text);
    if (right) text = rstrip(text);
    return std::string(text);
  }
  std::vector<int32_t> set = decode(chars.str());
  std::sort(set.begin(), set.end());
  const auto in_set = [&](int32_t c) { return std::binary_search(set.begin(), set.end(), c); };
  while (left && !text.empty()) {
    size_t end = 0;
    if (!in_set(next_code_point(text, end))) break;
    text.remove_prefix(end);
  }
  while (right && !text.empty()) {
    size_t start = text.size() - 1;
    while (start > 0 && (static_cast<unsigned char>(text[start]) & 0xC0) == 0x80) --start;
    size_t at = start;
    if (!in_set(next_code_point(text, at))) break;
    text.remove_suffix(text.size() - start);
  }
  return std::string(text);
}

std::string replace(Runtime& rt, std::string_view text, std::string_view from, std::string_view to,
                    int64_t count) {
  std::string out;
  if (count < 0) count = INT64_MAX;
  rt.scan(text.size());
  size_t at = 0;
  while (count > 0 && at <= text.size()) {
    const size_t found = from.empty() ? at : find_first(text, from, at);
    if (found == text.npos) break;
    out += text.substr(at, found - at);
    out += to;
    rt.check_size(static_cast<int64_t>(out.size()));
    at = found + from.size();
    --count;
    if (!from.empty()) continue;
    if (at == text.size()) return out;
    const size_t start = at;
    next_code_point(text, at);
    out += text.substr(start, at - start);
  }
  if (at < text.size()) out += text.substr(at);
  return out;
}

namespace {

Obj list_of(Runtime& rt, const Obj& self, const std::vector<std::string_view>& parts) {
  std::vector<Obj> items;
  items.reserve(parts.size());
  for (const std::string_view part : parts) items.push_back(Obj::string(part, self.markup));
  return rt.sequence(std::move(items));
}

// Fields between runs of white space.
std::vector<std::string_view> split_space(Runtime& rt, std::string_view text, int64_t limit) {
  std::vector<std::string_view> parts;
  for (text = lstrip(text); !text.empty(); text = lstrip(text)) {
    rt.charge(sizeof(Obj) * 2);
    if (limit == 0) {
      parts.push_back(text);
      break;
    }
    --limit;
    size_t end = 0;
    while (end < text.size()) {
      size_t next = end;
      if (is_space(next_code_point(text, next))) break;
      end = next;
    }
    parts.push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
  return parts;
}

std::vector<std::string_view> rsplit_space(Runtime& rt, std::string_view text, int64_t limit) {
  std::vector<std::string_view> parts = split_space(rt, text, -1);
  if (limit < 0 || static_cast<int64_t>(parts.size()) <= limit) return parts;
  // What was not split stays whole, with its white space to the left and inside.
  const size_t whole = parts.size() - static_cast<size_t>(limit);
  const char* end = parts[whole - 1].data() + parts[whole - 1].size();
  std::vector<std::string_view> out = {text.substr(0, static_cast<size_t>(end - text.data()))};
  out.insert(out.end(), parts.begin() + static_cast<int64_t>(whole), parts.end());
  return out;
}

Obj split(Runtime& rt, const Obj& self, const Args& args) {
  const Bound b(rt, "split", args, {"sep", "maxsplit"});
  int64_t limit = b.integer(1, -1);
  std::string_view text = self.str();
  rt.scan(text.size());
  if (!b.has(0) || b[0].is(Type::None)) return list_of(rt, self, split_space(rt, text, limit));
  const std::string_view separator = b.text(0, "");
  if (separator.empty()) rt.error("split: the separator is empty");
  std::vector<std::string_view> parts;
  for (;;) {
    rt.charge(sizeof(Obj) * 2);
    const size_t found = limit == 0 ? text.npos : find_first(text, separator);
    parts.push_back(text.substr(0, found));
    if (found == text.npos) break;
    text.remove_prefix(found + separator.size());
    --limit;
  }
  return list_of(rt, self, parts);
}

Obj rsplit(Runtime& rt, const Obj& self, const Args& args) {
  const Bound b(rt, "rsplit", args, {"sep", "maxsplit"});
  int64_t limit = b.integer(1, -1);
  std::string_view text = self.str();
  rt.scan(text.size());
  if (!b.has(0) || b[0].is(Type::None)) return list_of(rt, self, rsplit_space(rt, text, limit));
  const std::string_view separator = b.text(0, "");
  if (separator.empty()) rt.error("rsplit: the separator is empty");
  rt.charge(int64_t{self.size});
  const std::string back(text.rbegin(), text.rend()),
      back_separator(separator.rbegin(), separator.rend());
  std::vector<std::string_view> parts;
  for (size_t at = 0;; --limit) {  // offsets from the end
    rt.charge(sizeof(Obj) * 2);
    const size_t found = limit == 0 ? text.npos : find_first(back, back_separator, at);
    const size_t start = found == text.npos ? 0 : text.size() - found;
    parts.push_back(text.substr(start, text.size() - at - start));
    if (found == text.npos) break;
    at = found + separator.size();
  }
  std::reverse(parts.begin(), parts.end());
  return list_of(rt, self, parts);
}

template <bool kLeft, bool kRight>
Obj strip_method(Runtime& rt, const Obj& self, const Args& args) {
  const Bound b(rt, "strip", args, {"chars"});
  b.text(0, "");
  rt.scan(self.size);
  return rt.string(strip(self.str(), b.or_else(0, Obj::none()), kLeft, kRight), self.markup);
}

// Text between code points [start, end) of arguments 1 and 2; `start` gets the first, made
// non-negative.
std::string_view window(const Obj& self, const Bound& b, int64_t& start) {
  const int64_t count = code_points(self.str());
  const auto clamp = [&](int64_t i) {
    return std::clamp<int64_t>(i < 0 ? i + count : i, 0, count);
  };
  const int64_t first = b.integer(1, 0);
  start = clamp(first);
  const int64_t end = clamp(b.integer(2, count));
  if (first > count || end < start) return {};
  const size_t from = byte_offset(self.str(), start), to = byte_offset(self.str(), end);
  return self.str().substr(from, to - from);
}

template <bool kAtEnd>
Obj affix(Runtime& rt, const Obj& self, const Args& args) {
  const Bound b(rt, kAtEnd ? "endswith" : "startswith", args, {"affix", "start", "end"}, 1);
  int64_t start = 0;
  const std::string_view text = b.has(1) || b.has(2) ? window(self, b, start) : self.str();
  const auto matches = [&](const Obj& x) {
    if (!x.is(Type::String))
      rt.error("startswith and endswith need a string or a tuple of strings");
    return kAtEnd ? text.ends_with(x.str()) : text.starts_with(x.str());
  };
  if (!b[0].is(Type::Sequence) || !b[0].seq->is_tuple()) return Obj::boolean(matches(b[0]));
  const auto& all = b[0].seq->items;
  return Obj::boolean(std::any_of(all.begin(), all.end(), matches));
}

template <bool kLast, bool kMustBe>
Obj find_text(Runtime& rt, const Obj& self, const Args& args) {
  const Bound b(rt, "find", args, {"sub", "start", "end"}, 1);
  int64_t start = 0;
  rt.scan(self.size);
  const std::string_view text = window(self, b, start), sub = b.text(0, "");
  size_t found = kLast ? find_last(text, sub) : find_first(text, sub);
  if (text.data() == nullptr) found = text.npos;
  if (found == text.npos) {
    if (kMustBe) rt.error("the substring was not found");
    return Obj::integer(-1);
  }
  return Obj::integer(start + code_points(text.substr(0, found)));
}

Obj count_text(Runtime& rt, const Obj& self, const Args& args) {
  const Bound b(rt, "count", args, {"sub", "start", "end"}, 1);
  int64_t start = 0, n = 0;
  rt.scan(self.size);
  const std::string_view text = window(self, b, start), sub = b.text(0, "");
  if (sub.empty()) return Obj::integer(code_points(text) + 1);
  for (size_t at = 0; (at = find_first(text, sub, at)) != text.npos; at += sub.size()) ++n;
  return Obj::integer(n);
}

template <std::string (*kMap)(std::string_view)>
Obj mapped(Runtime& rt, const Obj& self, const Args& args) {
  const Bound b(rt, "the method", args, {});
  rt.scan(self.size * size_t{4});
  return rt.string(kMap(self.str()), self.markup);
}

Obj replace_method(Runtime& rt, const Obj& self, const Args& args) {
  const Bound b(rt, "replace", args, {"old", "new", "count"}, 2);
  return rt.string(replace(rt, self.str(), b.text(0, ""), b.text(1, ""), b.integer(2, -1)),
                   self.markup);
}

Obj join_method(Runtime& rt, const Obj& self, const Args& args) {
  const Bound b(rt, "join", args, {"iterable"}, 1);
  std::string out;
  bool is_first = true;
  for (const Obj& item : iterate(rt, b[0])) {
    if (!item.is(Type::String)) rt.error("join: found {}, expected a string", type_name(item));
    if (!is_first) out += self.str();
    is_first = false;
    append_str(rt, out, item);
  }
  return rt.string(std::move(out), self.markup);
}

Obj format_method(Runtime& rt, const Obj& self, const Args& args) {
  return rt.string(format_braces(rt, self.str(), args), self.markup);
}

Obj splitlines(Runtime& rt, const Obj& self, const Args& args) {
  const Bound b(rt, "splitlines", args, {"keepends"});
  rt.charge(int64_t{self.size});
  return list_of(rt, self, split_lines(self.str(), b.flag(0)));
}

template <bool kPrefix>
Obj remove_affix(Runtime& rt, const Obj& self, const Args& args) {
  const Bound b(rt, kPrefix ? "removeprefix" : "removesuffix", args, {"affix"}, 1);
  std::string_view text = self.str();
  const std::string_view gone = b.text(0, "");
  if (kPrefix && text.starts_with(gone)) text.remove_prefix(gone.size());
  if (!kPrefix && text.ends_with(gone)) text.remove_suffix(gone.size());
  return Obj::string(text, self.markup);
}

template <bool kLast>
Obj partition(Runtime& rt, const Obj& self, const Args& args) {
  const Bound b(rt, "partition", args, {"sep"}, 1);
  const std::string_view text = self.str(), separator = b.text(0, "");
  if (separator.empty()) rt.error("partition: the separator is empty");
  const size_t found = kLast ? find_last(text, separator) : find_first(text, separator);
  const Obj whole = Obj::string(text, self.markup), empty = Obj::string("", self.markup);
  std::vector<Obj> parts = {whole, empty, empty};
  if (found != text.npos) {
    parts = {Obj::string(text.substr(0, found), self.markup), Obj::string(separator, self.markup),
             Obj::string(text.substr(found + separator.size()), self.markup)};
  } else if (kLast) {
    std::swap(parts[0], parts[2]);
  }
  return rt.sequence(std::move(parts), Sequence::Kind::Tuple);
}

enum class Align { Left, Right, Center, Zero };

template <Align kAlign>
Obj justify(Runtime& rt, const Obj& self, const Args& args) {
  const Bound b(rt, "the method", args, {"width", "fillchar"}, 1);
  const int64_t width = b.integer(0, 0), count = code_points(self.str());
  const std::string_view fill = kAlign == Align::Zero ? "0" : b.text(1, " ");
  if (code_points(fill) != 1) rt.error("the fill must be one character");
  if (width <= count) return self;
  const int64_t missing = width - count;
  rt.check_size(missing);
  rt.check_size(missing * static_cast<int64_t>(fill.size()) + self.size);
  int64_t left = missing;
  if (kAlign == Align::Left) left = 0;
  if (kAlign == Align::Center) left = missing / 2 + (missing & width & 1);
  std::string out;
  const bool sign = kAlign == Align::Zero && self.size && (self.s[0] == '-' || self.s[0] == '+');
  if (sign) out += self.s[0];
  for (int64_t i = 0; i < left; ++i) out += fill;
  out += self.str().substr(sign ? 1 : 0);
  for (int64_t i = left; i < missing; ++i) out += fill;
  return rt.string(std::move(out), self.markup);
}

bool is_digit(int32_t c) {  // decimals, superscripts, subscripts and circled digits
  return is_decimal(c) || c == 0xB2 || c == 0xB3 || c == 0xB9 || c == 0x2070 ||
         (c >= 0x2074 && c <= 0x2079) || (c >= 0x2080 && c <= 0x2089) ||
         (c >= 0x2460 && c <= 0x2468);
}
bool is_alphanumeric(int32_t c) { return is_letter(c) || is_digit(c); }

template <bool (*kTest)(int32_t)>
Obj all_are(Runtime& rt, const Obj& self, const Args& args) {
  const Bound b(rt, "the method", args, {});
  rt.scan(self.size);
  for (size_t at = 0; at < self.size;)
    if (!kTest(next_code_point(self.str(), at))) return Obj::boolean(false);
  return Obj::boolean(self.size > 0);
}

template <bool (*kWanted)(int32_t), bool (*kOther)(int32_t)>
Obj has_case(Runtime& rt, const Obj& self, const Args& args) {
  const Bound b(rt, "the method", args, {});
  rt.scan(self.size);
  bool any = false;
  for (size_t at = 0; at < self.size;) {
    const int32_t c = next_code_point(self.str(), at);
    if (kOther(c)) return Obj::boolean(false);
    any |= kWanted(c);
  }
  return Obj::boolean(any);
}

const std::unordered_map<std::string_view, StringMethod>& string_methods() {
  static const std::unordered_map<std::string_view, StringMethod> kMethods = {
      {"split", split},
      {"rsplit", rsplit},
      {"splitlines", splitlines},
      {"strip", strip_method<true, true>},
      {"lstrip", strip_method<true, false>},
      {"rstrip", strip_method<false, true>},
      {"startswith", affix<false>},
      {"endswith", affix<true>},
      {"find", find_text<false, false>},
      {"rfind", find_text<true, false>},
      {"index", find_text<false, true>},
      {"rindex", find_text<true, true>},
      {"count", count_text},
      {"upper", mapped<to_upper>},
      {"lower", mapped<to_lower>},
      {"title", mapped<to_title>},
      {"capitalize", mapped<capitalize>},
      {"swapcase", mapped<swap_case>},
      {"replace", replace_method},
      {"join", join_method},
      {"format", format_method},
      {"removeprefix", remove_affix<true>},
      {"removesuffix", remove_affix<false>},
      {"partition", partition<false>},
      {"rpartition", partition<true>},
      {"ljust", justify<Align::Left>},
      {"rjust", justify<Align::Right>},
      {"center", justify<Align::Center>},
      {"zfill", justify<Align::Zero>},
      {"isdigit", all_are<is_digit>},
      {"isdecimal", all_are<is_decimal>},
      {"isnumeric", all_are<is_digit>},
      {"isalpha", all_are<is_letter>},
      {"isalnum", all_are<is_alphanumeric>},
      {"isspace", all_are<is_space>},
      {"isprintable", all_are<is_printable>},
      {"isupper", has_case<is_upper, is_lower>},
      {"islower", has_case<is_lower, is_upper>},
  };
  return kMethods;
}

}  // namespace

StringMethod find_string_method(std::string_view name) {
  const auto found = string_methods().find(name);
  return found == string_methods().end() ? nullptr : found->second;
}

}  // namespace lema::jinja
