// The template lexer: a text mode that looks for the next tag and applies white-space control, and
// a tag mode that reads Python-like tokens until the brackets are balanced and the tag ends.
#include "text/jinja_lexer.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "text/jinja_unicode.h"

namespace lema::jinja {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_char(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         static_cast<signed char>(c) < 0;
}

// Line ends as "\n", and the one at the very end removed.
std::string normalized(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalized(source)), rest_(source_) {}

  std::vector<Token> run() {
    while (!rest_.empty()) read_text();
    add(TokenKind::End, "");
    return std::move(tokens_);
  }

 private:
  template <typename... Args>
  [[noreturn]] void error(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorCode::BadInput, "chat template: line {}: {}", line_,
         fmt::format(format, std::forward<Args>(args)...));
  }

  void add(TokenKind kind, std::string text) { tokens_.push_back({kind, line_, std::move(text)}); }

  void advance(size_t bytes) {
    line_ += static_cast<int>(
        std::count(rest_.begin(), rest_.begin() + static_cast<std::ptrdiff_t>(bytes), '\n'));
    rest_.remove_prefix(bytes);
  }
  bool skip(std::string_view prefix) {
    if (!rest_.starts_with(prefix)) return false;
    advance(prefix.size());
    return true;
  }
  void skip_space() { advance(rest_.size() - lstrip(rest_).size()); }

  // The text before a tag at `end` of rest_, less what the tag's sign or lstrip_blocks strips.
  void add_text(size_t end, char sign, bool is_block) {
    std::string_view text = rest_.substr(0, end);
    if (sign == '-') {
      text = rstrip(text);
    } else if (sign != '+' && is_block) {
      const size_t newline = text.rfind('\n');
      const size_t line_start = newline == text.npos ? 0 : newline + 1;
      const bool starts_line =
          line_start > 0 || rest_.data() == source_.data() || rest_.data()[-1] == '\n';
      if (starts_line && lstrip(text.substr(line_start)).empty()) text = text.substr(0, line_start);
    }
    if (!text.empty()) add(TokenKind::Text, std::string(text));
    advance(end);
  }

  // After "%}" or "#}": "-" strips all white space, otherwise one newline goes (trim_blocks) unless
  // "+".
  bool skip_block_end(std::string_view close) {
    const std::string minus = "-" + std::string(close), plus = "+" + std::string(close);
    if (skip(minus)) {
      skip_space();
    } else if (!skip(plus)) {
      if (!skip(close)) return false;
      skip("\n");
    }
    return true;
  }

  void read_text() {
    size_t at = 0;
    while ((at = rest_.find('{', at)) != rest_.npos) {
      const char next = at + 1 < rest_.size() ? rest_[at + 1] : '\0';
      if (next == '{' || next == '%' || next == '#') break;
      ++at;
    }
    if (at == rest_.npos) return add_text(rest_.size(), '+', false);
    const char kind = rest_[at + 1];
    const char sign = at + 2 < rest_.size() ? rest_[at + 2] : '\0';
    add_text(at, sign, kind != '{');
    advance(sign == '-' || sign == '+' ? 3 : 2);
    if (kind == '#') return skip_comment();
    if (kind == '%' && skip_raw_begin()) return read_raw();
    add(kind == '{' ? TokenKind::VariableBegin : TokenKind::BlockBegin, "");
    read_tag(kind == '{');
  }

  void skip_comment() {
    const size_t end = rest_.find("#}");
    if (end == rest_.npos) error("a comment has no end");
    advance(end > 0 && (rest_[end - 1] == '-' || rest_[end - 1] == '+') ? end - 1 : end);
    skip_block_end("#}");
  }

  // "raw" and the tag's end, when they follow; the newline after it stays.
  bool skip_raw_begin() {
    std::string_view after = lstrip(rest_);
    if (!after.starts_with("raw")) return false;
    after = lstrip(after.substr(3));
    const bool strips = after.starts_with("-%}");
    if (!strips && !after.starts_with("%}")) return false;
    advance(static_cast<size_t>(after.data() - rest_.data()) + (strips ? 3 : 2));
    if (strips) skip_space();
    return true;
  }

  void read_raw() {
    for (size_t at = 0; (at = rest_.find("{%", at)) != rest_.npos; at += 2) {
      std::string_view after = rest_.substr(at + 2);
      const char sign = after.empty() ? '\0' : after[0];
      if (sign == '-' || sign == '+') after.remove_prefix(1);
      after = lstrip(after);
      if (!after.starts_with("endraw")) continue;
      after = lstrip(after.substr(6));
      if (!after.starts_with("%}") && !after.starts_with("-%}") && !after.starts_with("+%}"))
        continue;
      const auto tag = static_cast<size_t>(after.data() - rest_.data()) - at;
      add_text(at, sign, true);
      advance(tag);
      skip_block_end("%}");
      return;
    }
    error("a raw block has no end");
  }

  void read_tag(bool is_variable) {
    std::string open;  // brackets that are not closed
    while (!rest_.empty()) {
      if (open.empty() && (is_variable ? end_variable() : end_block())) return;
      const char c = rest_[0];
      if (lstrip(rest_).size() != rest_.size()) {
        skip_space();
      } else if (is_digit(c)) {
        read_number();
      } else if (is_name_char(c)) {
        read_name();
      } else if (c == '"' || c == '\'') {
        read_string(c);
      } else {
        read_operator(open);
      }
    }
    error("unexpected end of the template inside a tag");
  }

  bool end_variable() {
    const bool strips = rest_.starts_with("-}}");
    if (!strips && !rest_.starts_with("}}")) return false;
    add(TokenKind::VariableEnd, "");
    advance(strips ? 3 : 2);
    if (strips) skip_space();
    return true;
  }

  bool end_block() {
    const int line = line_;
    if (!skip_block_end("%}")) return false;
    tokens_.push_back({TokenKind::BlockEnd, line, ""});
    return true;
  }

  // A run of digits with single "_" between them, from `at`; returns its end.
  size_t digits_end(size_t at) const {
    while (at < rest_.size() &&
           (is_digit(rest_[at]) ||
            (rest_[at] == '_' && at + 1 < rest_.size() && is_digit(rest_[at + 1])))) {
      ++at;
    }
    return at;
  }

  void read_number() {
    if (rest_[0] == '0' && rest_.size() > 1 &&
        std::string_view("xXoObB").find(rest_[1]) != std::string_view::npos)
      error("only decimal numbers are supported");
    size_t end = digits_end(0);
    bool is_float = false;
    if (end + 1 < rest_.size() && rest_[end] == '.' && is_digit(rest_[end + 1])) {
      end = digits_end(end + 1);
      is_float = true;
    }
    if (end < rest_.size() && (rest_[end] == 'e' || rest_[end] == 'E')) {
      const size_t sign =
          end + 1 < rest_.size() && (rest_[end + 1] == '+' || rest_[end + 1] == '-') ? 1 : 0;
      if (end + 1 + sign < rest_.size() && is_digit(rest_[end + 1 + sign])) {
        end = digits_end(end + 1 + sign);
        is_float = true;
      }
    }
    std::string text(rest_.substr(0, end));
    std::erase(text, '_');
    add(is_float ? TokenKind::Float : TokenKind::Integer, std::move(text));
    advance(end);
  }

  void read_name() {
    size_t end = 0;
    while (end < rest_.size() && is_name_char(rest_[end])) {
      size_t next = end;
      const int32_t c = next_code_point(rest_, next);
      if (c >= 0x80 && !is_letter(c) && !is_decimal(c)) break;
      end = next;
    }
    if (end == 0) error("unexpected character");
    add(TokenKind::Name, std::string(rest_.substr(0, end)));
    advance(end);
  }

  void read_string(char quote) {
    size_t end = 1;
    while (end < rest_.size() && rest_[end] != quote) end += rest_[end] == '\\' ? 2 : 1;
    if (end >= rest_.size()) error("a string has no end");
    add(TokenKind::String, unescape(rest_.substr(1, end - 1)));
    advance(end + 1);
  }

  // Python's string escapes; an unknown one keeps its backslash.
  std::string unescape(std::string_view text) const {
    static constexpr std::string_view kFrom = "\\'\"abfnrtv", kTo = "\\'\"\a\b\f\n\r\t\v";
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] != '\\') {
        out += text[i];
        continue;
      }
      const char c = text[++i];
      if (const size_t simple = kFrom.find(c); simple != kFrom.npos) {
        out += kTo[simple];
      } else if (c == '\n') {
        continue;
      } else if (c == 'x' || c == 'u' || c == 'U') {
        const size_t count = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        append_escape(out, text.substr(i + 1, count), count, 16);
        i += count;
      } else if (c >= '0' && c <= '7') {
        size_t count = 1;
        while (count < 3 && i + count < text.size() && text[i + count] >= '0' &&
               text[i + count] <= '7')
          ++count;
        append_escape(out, text.substr(i, count), count, 8);
        i += count - 1;
      } else if (c == 'N') {
        error("\\N escapes are not supported");
      } else {
        out += '\\';
        out += c;
      }
    }
    return out;
  }

  void append_escape(std::string& out, std::string_view digits, size_t count, int base) const {
    int64_t value = 0;
    for (const char c : digits) {
      const char low = static_cast<char>(c | 0x20);
      const int digit = is_digit(c) ? c - '0' : low >= 'a' && low <= 'f' ? low - 'a' + 10 : 16;
      if (digit >= base) error("a truncated escape in a string");
      value = value * base + digit;
    }
    if (digits.size() != count) error("a truncated escape in a string");
    if (value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF))
      error("an escape that is no Unicode character");
    append_code_point(out, static_cast<int32_t>(value));
  }

  void read_operator(std::string& open) {
    static constexpr std::array<std::string_view, 6> kLong = {"//", "**", "==", "!=", "<=", ">="};
    static constexpr std::string_view kShort = "+-/*%~<>=.:|,;()[]{}";
    for (const std::string_view op : kLong) {
      if (rest_.starts_with(op)) {
        add(TokenKind::Operator, std::string(op));
        return advance(2);
      }
    }
    const char c = rest_[0];
    if (kShort.find(c) == kShort.npos)
      error("unexpected character '{}'", escaped(rest_.substr(0, 1)));
    if (c == '(' || c == '[' || c == '{') {
      open += c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
      if (open.empty() || open.back() != c) error("unexpected '{}'", c);
      open.pop_back();
    }
    add(TokenKind::Operator, std::string(1, c));
    advance(1);
  }

  std::string source_;
  std::string_view rest_;
  std::vector<Token> tokens_;
  int line_ = 1;
};

}  // namespace

std::vector<Token> tokenize_template(std::string_view source) { return Lexer(source).run(); }

}  // namespace lema::jinja
