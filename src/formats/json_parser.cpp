// JSON text to Value: the grammar of RFC 8259, no more, and the limits of json.h. One pass over the
// bytes with a stack of the open containers. Every other file of src/formats reads JSON through
// it.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <optional>
#include <vector>

#include "core/error.h"
#include "core/utf8.h"
#include "formats/json.h"

namespace lema {
namespace {

// Parsing may hold at most this many times the text in memory; texts below the floor count as that
// long.
constexpr int64_t kMemoryFactor = 16;
constexpr int64_t kMemoryFloorBytes = int64_t{16} << 20;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

class Parser {
 public:
  Parser(std::string_view text, const std::string& source, const JsonLimits& limits,
         int first_line, int64_t first_column)
      : text_(text.empty() ? "" : text),
        source_(source),
        limits_(limits),
        first_line_(first_line),
        first_column_(first_column),
        line_(first_line),
        at_(text_.data()),
        end_(at_ + text_.size()),
        counted_(at_),
        budget_(kMemoryFactor * std::max(static_cast<int64_t>(text.size()), kMemoryFloorBytes)) {}

  Value parse() {
    if (static_cast<int64_t>(text_.size()) > limits_.max_bytes)
      fail_at(at_, fmt::format("{} bytes of JSON, at most {} are accepted", text_.size(),
                               limits_.max_bytes));
    if (text_.starts_with("\xef\xbb\xbf"))
      fail_at(at_, "the text starts with a byte order mark (BOM); JSON must not");
    value();
    while (!stack_.empty()) {
      const bool object = stack_.back().value->is_object();
      const char next = peek();
      if (next == (object ? '}' : ']')) {
        ++at_;
        close(object);
        continue;
      }
      if (stack_.back().members++ > 0) {
        if (next != ',') unexpected(object ? "',' or '}'" : "',' or ']'");
        ++at_;
      }
      if (object) key();
      value();
    }
    if (peek() != '\0' || at_ != end_) unexpected("the end of the text");
    return std::move(root_);
  }

 private:
  struct Level {
    Value* value;  // a parent does not grow while its last child is open, so the pointer stays good
    size_t first_key;     // where the object's keys start in key_ends_
    int64_t members = 0;  // or elements, begun so far
  };

  // Passes over white space. The next byte, NUL at the end of the text.
  char peek() {
    while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\r' || *at_ == '\t')) ++at_;
    return at_ != end_ ? *at_ : '\0';
  }

  void value() {
    const char next = peek();
    if (next == '"') {
      string();
      hold(static_cast<int64_t>(token_.size()));
      place(Value(std::string_view(token_)));
    } else if (next == '{') {
      ++at_;
      open(Value(Value::Object{}));
    } else if (next == '[') {
      ++at_;
      open(Value(Value::Array{}));
    } else if (next == '-' || is_digit(next)) {
      place(number());
    } else if (literal("true")) {
      place(Value(true));
    } else if (literal("false")) {
      place(Value(false));
    } else if (literal("null")) {
      place(Value());
    } else {
      unexpected("a value");
    }
  }

  void key() {
    if (peek() != '"') unexpected("a key");
    auto& members = stack_.back().value->as_object();
    if (static_cast<int64_t>(members.size()) >= limits_.max_members)
      fail_at(at_ + 1, fmt::format("an object of more than {} members", limits_.max_members));
    string();
    hold(static_cast<int64_t>(token_.size() + sizeof(const char*)));
    make_room(members);
    members.emplace_back(token_, Value());
    key_ends_.push_back(at_);
    if (peek() != ':') unexpected("':'");
    ++at_;
  }

  bool literal(std::string_view word) {
    if (!std::string_view(at_, static_cast<size_t>(end_ - at_)).starts_with(word)) return false;
    at_ += word.size();
    return true;
  }

  // The string that begins at at_, as UTF-8 in token_.
  void string() {
    token_.clear();
    const char* run = ++at_;  // begin of what is taken over as it is
    unsigned seen = 0;  // bits of all bytes
    for (;; ++at_) {
      if (at_ == end_) fail_at(end_, "syntax error: missing closing quote");
      const unsigned byte = static_cast<unsigned char>(*at_);
      seen |= byte;
      if (byte >= 0x20 && byte != '"' && byte != '\\') continue;
      if (byte == 0) fail_at(at_ + 1, "NUL byte");
      if (byte < 0x20)
        fail_at(at_ + 1,
                fmt::format("syntax error: control character U+{:04X} must be escaped", byte));
      if (seen >= 0x80) check_utf8(run);
      token_.append(run, at_);
      if (byte == '"') break;
      escape();
      run = at_ + 1;
    }
    ++at_;
  }

  // What stands from `run` to at_ is whole characters.
  void check_utf8(const char* run) const {
    std::string_view rest(run, static_cast<size_t>(at_ - run));
    while (!rest.empty()) {
      const Utf8Unit unit = first_unit(rest);
      if (unit.kind != Utf8Unit::Kind::Character)
        fail_at(rest.data() + 1, "syntax error: ill-formed UTF-8");
      rest.remove_prefix(unit.bytes);
    }
  }

  // at_ is at the backslash, and after the call at the last byte of the escape.
  void escape() {
    constexpr std::string_view kNames = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
    if (++at_ == end_) fail_at(end_, "syntax error: missing closing quote");
    if (*at_ != 'u') {
      const size_t index = kNames.find(*at_);
      if (index == kNames.npos)
        fail_at(at_ + 1, "syntax error: forbidden character after backslash");
      token_ += kMeanings[index];
      return;
    }
    uint32_t code = hex();
    if (code >= 0xDC00 && code <= 0xDFFF)
      fail_at(at_ + 1, "syntax error: a low surrogate U+DC00..U+DFFF without a high one");
    if (code >= 0xD800 && code <= 0xDBFF) {
      const char* const high_end = at_ + 1;
      if (end_ - high_end < 2 || high_end[0] != '\\' || high_end[1] != 'u')
        fail_at(std::min(high_end + 1, end_),
                "syntax error: a high surrogate U+D800..U+DBFF without a low one");
      at_ += 2;
      const uint32_t low = hex();
      if (low < 0xDC00 || low > 0xDFFF)
        fail_at(at_ + 1, "syntax error: a high surrogate U+D800..U+DBFF without a low one");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    append_utf8(code);
  }

  // The four digits behind at_, which moves to the last of them.
  uint32_t hex() {
    uint32_t code = 0;
    for (int i = 0; i < 4; ++i) {
      if (++at_ == end_) fail_at(end_, "syntax error: missing closing quote");
      const char c = *at_;
      const int digit = is_digit(c)            ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) fail_at(at_ + 1, "syntax error: '\\u' must be followed by 4 hex digits");
      code = code << 4 | static_cast<uint32_t>(digit);
    }
    return code;
  }

  void append_utf8(uint32_t code) {
    const auto put = [&](uint32_t byte) { token_ += static_cast<char>(byte); };
    if (code < 0x80) return put(code);
    if (code >= 0x10000) put(0xF0 | code >> 18);
    if (code >= 0x800) put(code >= 0x10000 ? 0x80 | (code >> 12 & 0x3F) : 0xE0 | code >> 12);
    put(code >= 0x800 ? 0x80 | (code >> 6 & 0x3F) : 0xC0 | code >> 6);
    put(0x80 | (code & 0x3F));
  }

  Value number() {
    const char* const begin = at_;
    bool whole = true;
    if (*at_ == '-') ++at_;
    const char* const first = at_;
    digits();
    if (*first == '0') at_ = first + 1;  // nothing follows a leading zero
    if (at_ != end_ && *at_ == '.') {
      whole = false;
      ++at_;
      digits();
    }
    if (at_ != end_ && (*at_ == 'e' || *at_ == 'E')) {
      whole = false;
      ++at_;
      if (at_ != end_ && (*at_ == '+' || *at_ == '-')) ++at_;
      digits();
    }
    if (whole) {
      int64_t x = 0;
      if (std::from_chars(begin, at_, x).ec == std::errc()) return Value(x);
      if (!limits_.round_long_integers) fail_at(at_, "integer beyond 64 bits");
    }
    double x = 0;
    if (std::from_chars(begin, at_, x).ec != std::errc())  // too small, which is 0, or too large
      x = std::strtod(std::string(begin, at_).c_str(), nullptr);
    if (!std::isfinite(x)) fail_at(at_, "number overflow");
    return Value(x);
  }

  void digits() {
    if (at_ == end_ || !is_digit(*at_))
      fail_at(std::min(at_ + 1, end_), "syntax error: invalid number; expected a digit");
    while (at_ != end_ && is_digit(*at_)) ++at_;
  }

  // What begins at at_ does not belong there.
  [[noreturn]] void unexpected(std::string_view expected) {
    const char next = peek();
    std::string found = "invalid literal";
    const char* end = at_ + 1;
    if (at_ == end_) {
      found = "unexpected end of input";
      end = end_;
    } else if (next == '\0') {
      fail_at(end, "NUL byte");
    } else if (std::string_view("{}[],:").find(next) != std::string_view::npos) {
      found = fmt::format("unexpected '{}'", next);
    } else if (next == '"') {
      found = "unexpected string literal";
    } else if (next == '-' || is_digit(next)) {
      number();
      found = "unexpected number literal";
      end = at_;
    }
    fail_at(end, fmt::format("syntax error: {}; expected {}", found, expected));
  }

  // `end` is one past the byte the message points at; columns count bytes from 1.
  [[noreturn]] void fail_at(const char* end, std::string_view reason) const {
    const std::string_view before(
        text_.data(), static_cast<size_t>(std::max(end, text_.data() + 1) - text_.data() - 1));
    const auto line = first_line_ + std::count(before.begin(), before.end(), '\n');
    const size_t newline = before.rfind('\n');
    const int64_t column = newline == before.npos ? std::ssize(before) + first_column_
                                                  : std::ssize(before.substr(newline));
    fail(ErrorCode::BadInput, "{}:{}:{}: {}", source_, line, column, reason);
  }

  void hold(int64_t bytes) {
    held_ += bytes;
    if (held_ > budget_)
      fail_at(at_, fmt::format("so many small values that parsing would take more than {} bytes",
                               budget_));
  }

  template <typename List>
  void make_room(List& list) {
    if (list.size() < list.capacity()) return;
    constexpr auto kBytes = static_cast<int64_t>(sizeof(typename List::value_type));
    const auto before = static_cast<int64_t>(list.capacity());
    const int64_t after = std::max(before + before / 2, before + 2);
    hold(after * kBytes);
    list.reserve(static_cast<size_t>(after));
    held_ -= before * kBytes;
  }

  int line_at(const char* p) {
    line_ += static_cast<int>(std::count(counted_, p, '\n'));
    counted_ = p;
    return line_;
  }

  // Puts a value where the grammar wants one: the root, the next element, or the last key's member.
  Value* place(Value value) {
    value.line = line_at(at_);
    if (stack_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Value& parent = *stack_.back().value;
    if (parent.is_object()) {
      Value& member = parent.as_object().back().second;
      member = std::move(value);
      return &member;
    }
    auto& elements = parent.as_array();
    make_room(elements);
    return &elements.emplace_back(std::move(value));
  }

  void open(Value container) {
    if (static_cast<int>(stack_.size()) >= limits_.max_depth)
      fail_at(at_, fmt::format("nested deeper than {} levels", limits_.max_depth));
    Value* value = place(std::move(container));
    stack_.push_back({value, key_ends_.size()});
  }

  void close(bool object) {
    if (object) refuse_duplicate_keys();
    key_ends_.resize(stack_.back().first_key);
    stack_.pop_back();
  }

  // By sorting: no hash that hostile keys could collide in. Mostly the first bytes decide.
  void refuse_duplicate_keys() {
    const auto& members = stack_.back().value->as_object();
    order_.resize(members.size());
    for (size_t i = 0; i < order_.size(); ++i) order_[i] = {first_bytes(members[i].first), i};
    std::sort(order_.begin(), order_.end(), [&](const KeyPlace& a, const KeyPlace& b) {
      if (a.first_bytes != b.first_bytes) return a.first_bytes < b.first_bytes;
      const int c = members[a.index].first.compare(members[b.index].first);
      return c != 0 ? c < 0 : a.index < b.index;
    });
    for (size_t i = 1; i < order_.size(); ++i) {
      if (order_[i].first_bytes != order_[i - 1].first_bytes) continue;
      const size_t index = order_[i].index;
      const std::string& name = members[index].first;
      if (members[order_[i - 1].index].first == name)
        fail_at(key_ends_[stack_.back().first_key + index],
                fmt::format("duplicate key \"{}\"", escaped(name)));
    }
  }
  static uint64_t first_bytes(const std::string& key) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < std::min(key.size(), sizeof bytes); ++i)
      bytes = bytes << 8 | static_cast<unsigned char>(key[i]);
    return bytes;
  }

  std::string_view text_;
  const std::string& source_;
  const JsonLimits& limits_;
  int first_line_;
  int64_t first_column_;
  int line_;                          // of counted_
  const char *at_, *end_, *counted_;  // at_: the next byte
  std::string token_;                 // the last string
  int64_t held_ = 0, budget_;         // bytes
  Value root_;
  std::vector<Level> stack_;           // open containers, outermost first
  std::vector<const char*> key_ends_;  // one past each key of the open objects, for messages
  struct KeyPlace {
    uint64_t first_bytes;
    size_t index;
  };
  std::vector<KeyPlace> order_;
};

}  // namespace

Value parse_json(std::string_view text, const std::string& source, const JsonLimits& limits,
                 int first_line, int64_t first_column) {
  return Parser(text, source, limits, first_line, first_column).parse();
}

}  // namespace lema
