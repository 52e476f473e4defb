// Python's two string formatters, `format % args` and str.format, for the conversions that
// templates use; the rest is an error. Also HTML escaping for the `escape` filter.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "text/jinja_ops.h"
#include "text/jinja_unicode.h"

namespace lema::jinja {

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

namespace {

constexpr int64_t kMaxWidth = 10'000;

// One "%[(name)][flags][width][.precision]type".
class PercentFormat {
 public:
  PercentFormat(Runtime& rt, std::string_view format, const Obj& args)
      : rt_(rt), format_(format), args_(args) {}

  std::string run() {
    std::string out;
    while (at_ < format_.size()) {
      const char c = format_[at_++];
      if (c != '%') {
        out += c;
      } else if (peek() == '%') {
        ++at_;
        out += '%';
      } else {
        out += conversion();
      }
      rt_.check_size(static_cast<int64_t>(out.size()));
    }
    const bool takes_all = args_.is(Type::Dict) || used_name_;
    if (!takes_all && used_ < count())
      rt_.error("not all arguments converted by the string format");
    return out;
  }

 private:
  char peek() const { return at_ < format_.size() ? format_[at_] : '\0'; }
  bool is_tuple() const { return args_.is(Type::Sequence) && args_.seq->is_tuple(); }
  size_t count() const { return is_tuple() ? args_.seq->items.size() : 1; }

  Obj argument() {
    if (peek() == '(') {
      const size_t end = format_.find(')', at_);
      if (end == format_.npos || !args_.is(Type::Dict)) rt_.error("a named format needs a mapping");
      const std::string_view name = format_.substr(at_ + 1, end - at_ - 1);
      at_ = end + 1;
      used_name_ = true;
      const Obj* found = find(rt_, *args_.dict, Obj::string(name));
      if (!found) rt_.error("the string format has no value '{}'", escaped(name));
      return *found;
    }
    return Obj::none();
  }
  Obj next_argument() {
    if (used_ >= count()) rt_.error("not enough arguments for the string format");
    return is_tuple() ? args_.seq->items[used_++] : (++used_, args_);
  }

  int64_t number(int64_t fallback) {
    if (peek() < '0' || peek() > '9') return fallback;
    int64_t value = 0;
    while (peek() >= '0' && peek() <= '9' && value <= kMaxWidth)
      value = value * 10 + (format_[at_++] - '0');
    if (value > kMaxWidth) rt_.error("a format width above {}", kMaxWidth);
    return value;
  }

  std::string conversion() {
    const bool by_name = peek() == '(';
    Obj value = argument();
    std::string flags;
    while (std::string_view("-+ 0").find(peek()) != std::string_view::npos && peek())
      flags += format_[at_++];
    const int64_t width = number(0);
    int64_t precision = -1;
    if (peek() == '.') {
      ++at_;
      precision = number(0);
    }
    const char type = peek();
    ++at_;
    if (!by_name) value = next_argument();
    std::string text = convert(value, type, precision);
    const bool is_numeric = type != 's' && type != 'r';
    if (is_numeric && text[0] != '-') {
      if (flags.find('+') != flags.npos)
        text.insert(0, "+");
      else if (flags.find(' ') != flags.npos)
        text.insert(0, " ");
    }
    return pad(std::move(text), flags, width, is_numeric);
  }

  std::string convert(const Obj& value, char type, int64_t precision) {
    if (type == 's' || type == 'r') {
      std::string text;
      type == 's' ? append_str(rt_, text, value) : append_repr(rt_, text, value);
      return precision < 0 || precision >= code_points(text)
                 ? text
                 : text.substr(0, byte_offset(text, precision));
    }
    if (!value.is_number())
      rt_.error("%{} needs a number, found {}", escaped({&type, 1}), type_name(value));
    const double x = value.as_double();
    const int digits = static_cast<int>(precision < 0 ? 6 : precision);
    switch (type) {
      case 'd':
      case 'i':
        if (value.is(Type::Float) && (!std::isfinite(x) || std::fabs(x) >= 0x1p63))
          rt_.error("%d of a huge number");
        return std::to_string(value.is(Type::Float) ? static_cast<int64_t>(x) : value.as_int());
      case 'f':
        return fmt::format("{:.{}f}", x, digits);
      case 'e':
        return fmt::format("{:.{}e}", x, digits);
      case 'g':
        return fmt::format("{:.{}g}", x, digits);
      case 'x':
      case 'X':
        if (!value.is_integer()) rt_.error("%x needs an integer");
        return type == 'x' ? fmt::format("{:x}", value.as_int())
                           : fmt::format("{:X}", value.as_int());
      default:
        rt_.error("the format conversion '{}' is not supported", escaped({&type, 1}));
    }
  }

  static std::string pad(std::string text, std::string_view flags, int64_t width, bool is_numeric) {
    const int64_t missing = width - code_points(text);
    if (missing <= 0) return text;
    const auto n = static_cast<size_t>(missing);
    if (flags.find('-') != flags.npos) return text + std::string(n, ' ');
    if (!is_numeric || flags.find('0') == flags.npos) return std::string(n, ' ') + text;
    const bool has_sign = text[0] == '-' || text[0] == '+' || text[0] == ' ';
    return text.insert(has_sign ? 1 : 0, n, '0');
  }

  Runtime& rt_;
  std::string_view format_;
  const Obj& args_;
  size_t at_ = 0, used_ = 0;
  bool used_name_ = false;
};

}  // namespace

std::string format_percent(Runtime& rt, std::string_view format, const Obj& args) {
  return PercentFormat(rt, format, args).run();
}

namespace {

// The argument of a field "{}", "{2}" or "{name}".
Obj field_value(Runtime& rt, std::string_view field, size_t& automatic, const Args& args) {
  if (field.find_first_of(":!.[{") != field.npos)
    rt.error("format: the field '{}' is not supported", escaped(field));
  size_t index = 0;
  const auto [stop, code] = std::from_chars(field.data(), field.data() + field.size(), index);
  if (field.empty()) index = automatic++;
  if (field.empty() || (code == std::errc{} && stop == field.data() + field.size())) {
    if (index >= args.positional.size()) rt.error("format: there is no argument {}", index);
    return args.positional[index];
  }
  for (const auto& [name, value] : args.named)
    if (name == field) return value;
  rt.error("format: there is no argument '{}'", escaped(field));
}

}  // namespace

std::string format_braces(Runtime& rt, std::string_view format, const Args& args) {
  std::string out;
  size_t automatic = 0;
  for (size_t at = 0; at < format.size(); ++at) {
    const char c = format[at];
    const bool doubled = at + 1 < format.size() && format[at + 1] == c;
    if (c != '{' && c != '}') {
      out += c;
    } else if (doubled) {
      out += c;
      ++at;
    } else {
      const size_t end = format.find('}', at);
      if (c == '}' || end == format.npos) rt.error("format: a single '{}'", c);
      append_str(rt, out, field_value(rt, format.substr(at + 1, end - at - 1), automatic, args));
      at = end;
    }
    rt.check_size(static_cast<int64_t>(out.size()));
  }
  return out;
}

}  // namespace lema::jinja
