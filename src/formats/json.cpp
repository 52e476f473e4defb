// JSON text to Value through nlohmann's SAX parser, with the checks RFC 8259 leaves to the reader,
// and Value to text as Python's json.dumps prints it. Every other file of src/formats reads and
// writes JSON through this one.
#include "formats/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/error.h"

namespace lema {
namespace {

// Parsing may hold at most this many times the text in memory; texts below the floor count as that
// long.
constexpr int64_t kMemoryFactor = 16;
constexpr int64_t kMemoryFloorBytes = int64_t{16} << 20;

// An input iterator that tells its position in `*seen`, for the SAX events.
struct Cursor {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  const char* at;
  const char** seen;
  const char& operator*() const { return *at; }
  Cursor& operator++() {
    *seen = ++at;
    return *this;
  }
  bool operator==(const Cursor& other) const { return at == other.at; }
  bool operator!=(const Cursor& other) const { return at != other.at; }
};

// The library's message without its prefix ("[json.exception...] parse error at line 1, column 2:
// ") and without a quotation of the input that is long or not plain ASCII.
std::string plain_reason(std::string_view what) {
  if (const size_t end = what.find("] "); end != what.npos) what.remove_prefix(end + 2);
  if (what.starts_with("parse error at ")) {
    if (const size_t end = what.find(": "); end != what.npos) what.remove_prefix(end + 2);
  }
  if (const size_t quote = what.find("; last read: "); quote != what.npos) {
    const std::string_view rest = what.substr(quote);
    const bool plain =
        std::all_of(rest.begin(), rest.end(), [](char c) { return c >= 0x20 && c < 0x7f; });
    if (!plain || rest.size() > 60) what = what.substr(0, quote);
  }
  return escaped(what);
}

// Builds the Value; its member functions are the events nlohmann's parser calls.
class Builder {
 public:
  Builder(std::string_view text, const std::string& source, const JsonLimits& limits,
          int first_line, int64_t first_column)
      : text_(text.empty() ? "" : text),
        source_(source),
        limits_(limits),
        first_line_(first_line),
        first_column_(first_column),
        line_(first_line),
        budget_(kMemoryFactor * std::max(static_cast<int64_t>(text.size()), kMemoryFloorBytes)) {}

  Value parse() {
    if (static_cast<int64_t>(text_.size()) > limits_.max_bytes)
      fail_at(begin(), fmt::format("{} bytes of JSON, at most {} are accepted", text_.size(),
                                   limits_.max_bytes));
    if (text_.starts_with("\xef\xbb\xbf"))
      fail_at(begin(), "the text starts with a byte order mark (BOM); JSON must not");
    // nlohmann takes a NUL for the end of the input and would accept whatever follows it.
    if (const size_t nul = text_.find('\0'); nul != text_.npos)
      fail_at(begin() + nul + 1, "NUL byte");
    at_ = counted_ = begin();
    nlohmann::json::sax_parse(Cursor{at_, &at_}, Cursor{at_ + text_.size(), &at_}, this);
    return std::move(root_);
  }

  bool null() { return add(Value()); }
  bool boolean(bool x) { return add(Value(x)); }
  bool number_integer(int64_t x) { return add(Value(x), true); }
  bool number_unsigned(uint64_t x) {
    constexpr auto kMax = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    return x <= kMax ? add(Value(static_cast<int64_t>(x)), true)
                     : long_integer(static_cast<double>(x));
  }
  bool number_float(double x, const std::string& token) {
    // Integers too long for 64 bits arrive here, already rounded.
    return token.find_first_of(".eE") == token.npos ? long_integer(x) : add(Value(x), true);
  }
  // Copies: the lexer's buffer is longer than the string.
  bool string(const std::string& x) {
    hold(static_cast<int64_t>(x.size()));
    return add(Value(std::string_view(x)));
  }
  bool binary(const std::vector<uint8_t>&) { return false; }  // no such thing in JSON text

  bool start_object(size_t) { return open(Value(Value::Object{})); }
  bool start_array(size_t) { return open(Value(Value::Array{})); }
  bool key(const std::string& x) {
    auto& members = stack_.back().value->as_object();
    if (static_cast<int64_t>(members.size()) >= limits_.max_members)
      fail_at(at_, fmt::format("an object of more than {} members", limits_.max_members));
    hold(static_cast<int64_t>(x.size() + sizeof(const char*)));
    make_room(members);
    members.emplace_back(std::string(std::string_view(x)), Value());
    key_ends_.push_back(at_);
    return true;
  }
  bool end_object() {
    refuse_duplicate_keys();
    key_ends_.resize(stack_.back().first_key);
    stack_.pop_back();
    return true;
  }
  bool end_array() {
    stack_.pop_back();
    return true;
  }
  bool parse_error(size_t bytes_read, const std::string&, const nlohmann::json::exception& error) {
    fail_at(begin() + std::min(bytes_read, text_.size()), plain_reason(error.what()));
  }

 private:
  bool long_integer(double rounded) {
    if (!limits_.round_long_integers) fail_at(number_end(), "integer beyond 64 bits");
    return add(Value(rounded), true);
  }

  struct Level {
    Value* value;  // a parent does not grow while its last child is open, so the pointer stays good
    size_t first_key;  // where the object's keys start in key_ends_
  };

  const char* begin() const { return text_.data(); }

  // `end` is one past the byte the message points at; columns count bytes from 1.
  [[noreturn]] void fail_at(const char* end, std::string_view reason) const {
    const std::string_view before(begin(),
                                  static_cast<size_t>(std::max(end, begin() + 1) - begin() - 1));
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

  // The lexer reads one byte past a number to see its end.
  const char* number_end() const { return at_[-1] >= '0' && at_[-1] <= '9' ? at_ : at_ - 1; }

  int line_at(const char* p) {
    line_ += static_cast<int>(std::count(counted_, p, '\n'));
    counted_ = p;
    return line_;
  }

  // Puts a value where the grammar wants one: the root, the next element, or the last key's member.
  Value* place(Value value, bool number) {
    value.line = line_at(number ? number_end() : at_);
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

  bool add(Value value, bool number = false) {
    place(std::move(value), number);
    return true;
  }

  bool open(Value container) {
    if (static_cast<int>(stack_.size()) >= limits_.max_depth)
      fail_at(at_, fmt::format("nested deeper than {} levels", limits_.max_depth));
    Value* value = place(std::move(container), false);
    stack_.push_back({value, key_ends_.size()});
    return true;
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
  int line_;                  // of counted_
  const char* at_ = nullptr;  // next byte the lexer reads
  const char* counted_ = nullptr;
  int64_t held_ = 0, budget_;  // bytes
  Value root_;
  std::vector<Level> stack_;           // open containers, outermost first
  std::vector<const char*> key_ends_;  // one past each key of the open objects, for messages
  struct KeyPlace {
    uint64_t first_bytes;
    size_t index;
  };
  std::vector<KeyPlace> order_;
};

// As Python's repr: shortest digits, exponent below 1e-4 and from 1e16 on, ".0" on whole numbers.
void append_double(std::string& out, double x) {
  check(std::isfinite(x), "JSON cannot hold the number {}", x);
  char buffer[64];
  const auto scientific = std::to_chars(buffer, std::end(buffer), x, std::chars_format::scientific);
  const std::string_view text(buffer, static_cast<size_t>(scientific.ptr - buffer));
  const size_t e = text.find('e');
  int exponent = 0;
  std::from_chars(text.data() + e + (text[e + 1] == '+' ? 2 : 1), scientific.ptr, exponent);
  if (exponent < -4 || exponent >= 16) {
    out += text;
    return;
  }
  const auto fixed = std::to_chars(buffer, std::end(buffer), x, std::chars_format::fixed);
  const std::string_view digits(buffer, static_cast<size_t>(fixed.ptr - buffer));
  out += digits;
  if (digits.find('.') == digits.npos) out += ".0";
}

void append_string(std::string& out, std::string_view text) {
  out += '"';
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20)
          fmt::format_to(std::back_inserter(out), "\\u{:04x}", static_cast<unsigned>(c));
        else
          out += c;
    }
  }
  out += '"';
}

struct Dumper {
  std::string out;
  int indent;
  bool sort_keys;

  void separate(bool first, int depth) {
    if (!first) out += indent < 0 ? ", " : ",";
    if (indent >= 0) out.append(1, '\n').append(static_cast<size_t>(indent * depth), ' ');
  }

  void close(char bracket, int depth) {
    if (indent >= 0) out.append(1, '\n').append(static_cast<size_t>(indent * depth), ' ');
    out += bracket;
  }

  void object(const Value::Object& members, int depth) {
    std::vector<const Value::Object::value_type*> order;
    order.reserve(members.size());
    for (const auto& member : members) order.push_back(&member);
    if (sort_keys)
      std::sort(order.begin(), order.end(), [](auto* a, auto* b) { return a->first < b->first; });
    out += '{';
    for (const auto* member : order) {
      separate(member == order.front(), depth + 1);
      append_string(out, member->first);
      out += ": ";
      value(member->second, depth + 1);
    }
    members.empty() ? void(out += '}') : close('}', depth);
  }

  void array(const Value::Array& elements, int depth) {
    out += '[';
    for (const Value& element : elements) {
      separate(&element == elements.data(), depth + 1);
      value(element, depth + 1);
    }
    elements.empty() ? void(out += ']') : close(']', depth);
  }

  void value(const Value& x, int depth) {
    switch (x.kind()) {
      case Value::Kind::Null:
        out += "null";
        break;
      case Value::Kind::Bool:
        out += x.as_bool() ? "true" : "false";
        break;
      case Value::Kind::Int:
        fmt::format_to(std::back_inserter(out), "{}", x.as_int());
        break;
      case Value::Kind::Float:
        append_double(out, x.as_number());
        break;
      case Value::Kind::String:
        append_string(out, x.as_string());
        break;
      case Value::Kind::Array:
        array(x.as_array(), depth);
        break;
      case Value::Kind::Object:
        object(x.as_object(), depth);
        break;
    }
  }
};

}  // namespace

Value parse_json(std::string_view text, const std::string& source, const JsonLimits& limits,
                 int first_line, int64_t first_column) {
  return Builder(text, source, limits, first_line, first_column).parse();
}

std::string dump_json(const Value& value, int indent, bool sort_keys) {
  Dumper dumper{"", indent, sort_keys};
  dumper.value(value, 0);
  return std::move(dumper.out);
}

}  // namespace lema
