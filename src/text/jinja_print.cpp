// How values become text: Python's str() and repr(), float digits, and json.dumps for the `tojson`
// filter.
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "text/jinja_unicode.h"
#include "text/jinja_value.h"

namespace lema::jinja {

std::string format_double(double x) {
  if (std::isnan(x)) return "nan";
  if (std::isinf(x)) return x < 0 ? "-inf" : "inf";
  std::array<char, 40> buffer{};
  const auto end =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), x, std::chars_format::scientific)
          .ptr;
  std::string_view text(buffer.data(), static_cast<size_t>(end - buffer.data()));
  const bool negative = text.front() == '-';
  if (negative) text.remove_prefix(1);
  const size_t e = text.find('e');
  int exponent = 0;
  const size_t digits_at = text[e + 1] == '+' ? e + 2 : e + 1;
  std::from_chars(text.data() + digits_at, text.data() + text.size(), exponent);
  std::string digits(1, text[0]);
  if (e > 2) digits += text.substr(2, e - 2);

  std::string out = negative ? "-" : "";
  const int count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (count > 1) out += "." + digits.substr(1);
    return out + fmt::format("e{}{:02}", exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0)
    return out + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  if (count <= exponent + 1)
    return out + digits + std::string(static_cast<size_t>(exponent + 1 - count), '0') + ".0";
  const auto whole = static_cast<size_t>(exponent + 1);
  return out + digits.substr(0, whole) + "." + digits.substr(whole);
}

namespace {

void append_hex(std::string& out, int32_t c) {
  if (c < 0x100) {
    out += fmt::format("\\x{:02x}", c);
  } else if (c < 0x10000) {
    out += fmt::format("\\u{:04x}", c);
  } else {
    out += fmt::format("\\U{:08x}", c);
  }
}

void append_string_repr(std::string& out, std::string_view text) {
  const bool has_single = text.find('\'') != text.npos;
  const char quote = has_single && text.find('"') == text.npos ? '"' : '\'';
  out += quote;
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    const int32_t c = next_code_point(text, at);
    if (c == quote || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
    } else if (is_printable(c)) {
      out += text.substr(start, at - start);
    } else {
      append_hex(out, c);
    }
  }
  out += quote;
}

void append_items(Runtime& rt, std::string& out, const std::vector<Obj>& items, int depth) {
  for (size_t i = 0; i < items.size(); ++i) {
    if (i) out += ", ";
    append_repr(rt, out, items[i], depth + 1);
  }
}

void append_dict_repr(Runtime& rt, std::string& out, const Dict& dict, int depth) {
  out += '{';
  for (size_t i = 0; i < dict.items.size(); ++i) {
    if (i) out += ", ";
    append_repr(rt, out, dict.items[i].first, depth + 1);
    out += ": ";
    append_repr(rt, out, dict.items[i].second, depth + 1);
  }
  out += '}';
}

void append_range_repr(Runtime& rt, std::string& out, const std::vector<Obj>& items) {
  const int64_t first = items.empty() ? 0 : items[0].i;
  int64_t step = 1, stop = first;
  if ((items.size() > 1 && __builtin_sub_overflow(items[1].i, first, &step)) ||
      (!items.empty() && __builtin_add_overflow(items.back().i, step, &stop)))
    rt.error("an integer beyond 64 bits");
  out += fmt::format("range({}, {}", first, stop);
  out += step == 1 ? ")" : fmt::format(", {})", step);
}

void append_sequence_repr(Runtime& rt, std::string& out, const Sequence& seq, int depth) {
  using Kind = Sequence::Kind;
  switch (seq.kind) {
    case Kind::Range:
      return append_range_repr(rt, out, seq.items);
    case Kind::Generator:
      out += "<generator object>";
      return;
    case Kind::List:
      out += '[';
      break;
    case Kind::Tuple:
    case Kind::Group:
      out += '(';
      break;
    case Kind::Keys:
      out += "dict_keys([";
      break;
    case Kind::Values:
      out += "dict_values([";
      break;
    case Kind::Items:
      out += "dict_items([";
      break;
  }
  append_items(rt, out, seq.items, depth);
  if (seq.is_tuple()) {
    out += seq.items.size() == 1 ? ",)" : ")";
  } else {
    out += seq.kind == Kind::List ? "]" : "])";
  }
}

}  // namespace

void append_repr(Runtime& rt, std::string& out, const Obj& x, int depth) {
  rt.step();
  rt.check_size(static_cast<int64_t>(out.size()));
  if (depth > kMaxDataDepth) rt.error("values nested deeper than {}", kMaxDataDepth);
  switch (x.type) {
    case Type::Undefined:
      out += "Undefined";
      break;
    case Type::None:
      out += "None";
      break;
    case Type::Bool:
      out += x.b ? "True" : "False";
      break;
    case Type::Int:
      out += std::to_string(x.i);
      break;
    case Type::Float:
      out += format_double(x.f);
      break;
    case Type::String:
      rt.scan(x.size);
      if (x.markup) out += "Markup(";
      append_string_repr(out, x.str());
      if (x.markup) out += ')';
      break;
    case Type::Sequence:
      append_sequence_repr(rt, out, *x.seq, depth);
      break;
    case Type::Dict:
      append_dict_repr(rt, out, *x.dict, depth);
      break;
    case Type::Namespace:
      out += "<Namespace ";
      append_dict_repr(rt, out, *x.dict, depth);
      out += '>';
      break;
    default:
      out += fmt::format("<{}>", type_name(x));
  }
}

void append_str(Runtime& rt, std::string& out, const Obj& x) {
  if (x.is(Type::String)) {
    rt.check_size(static_cast<int64_t>(out.size() + x.size));
    rt.scan(x.size);
    out += x.str();
  } else if (!x.is(Type::Undefined)) {
    append_repr(rt, out, x);
  }
  rt.step();
  rt.check_size(static_cast<int64_t>(out.size()));
}

std::string to_str(Runtime& rt, const Obj& x) {
  std::string out;
  append_str(rt, out, x);
  return out;
}

namespace {

class JsonWriter {
 public:
  JsonWriter(Runtime& rt, const JsonStyle& style, std::string& out)
      : rt_(rt), style_(style), out_(out) {}

  void write(const Obj& x, int depth) {
    rt_.step();
    rt_.check_size(static_cast<int64_t>(out_.size()));
    if (depth > kMaxDataDepth) rt_.error("tojson: values nested deeper than {}", kMaxDataDepth);
    switch (x.type) {
      case Type::None:
        out_ += "null";
        return;
      case Type::Bool:
        out_ += x.b ? "true" : "false";
        return;
      case Type::Int:
        out_ += std::to_string(x.i);
        return;
      case Type::Float:
        write_double(x.f);
        return;
      case Type::String:
        write_string(x.str());
        return;
      case Type::Dict:
        write_dict(*x.dict, depth);
        return;
      case Type::Sequence:
        if (x.seq->is_tuple() || x.seq->kind == Sequence::Kind::List)
          return write_list(x.seq->items, depth);
        break;
      default:
        break;
    }
    rt_.error("tojson: a value of type {} is not JSON serializable", type_name(x));
  }

 private:
  void write_double(double x) {
    out_ += std::isnan(x)   ? "NaN"
            : std::isinf(x) ? (x < 0 ? "-Infinity" : "Infinity")
                            : format_double(x);
  }

  void write_escape(int32_t c) {
    static constexpr std::string_view kFrom = "\"\\\n\r\t\b\f", kTo = "\"\\nrtbf";
    if (const size_t i = c < 0x80 ? kFrom.find(static_cast<char>(c)) : kFrom.npos;
        i != kFrom.npos) {
      out_ += '\\';
      out_ += kTo[i];
    } else if (c < 0x10000) {
      out_ += fmt::format("\\u{:04x}", c);
    } else {
      out_ += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + ((c - 0x10000) >> 10),
                          0xDC00 + ((c - 0x10000) & 0x3FF));
    }
  }

  void write_string(std::string_view text) {
    rt_.scan(text.size());
    out_ += '"';
    for (size_t at = 0; at < text.size();) {
      const size_t start = at;
      const int32_t c = next_code_point(text, at);
      if (c < 0x20 || c == '"' || c == '\\' || (style_.ensure_ascii && c > 0x7E)) {
        write_escape(c);
      } else {
        out_ += text.substr(start, at - start);
      }
    }
    out_ += '"';
  }

  // Keys of json.dumps: strings, and numbers, booleans and None as their JSON text.
  std::string key_text(const Obj& key) {
    if (key.is(Type::String)) return std::string(key.str());
    if (!key.is_number() && !key.is(Type::None))
      rt_.error("tojson: a key of type {}", type_name(key));
    std::string text;
    JsonWriter(rt_, style_, text).write(key, 0);
    return text;
  }

  void write_dict(const Dict& dict, int depth) {
    std::vector<std::pair<Obj, Obj>> items = dict.items;
    if (style_.sort_keys)
      std::stable_sort(items.begin(), items.end(),
                       [&](auto& a, auto& b) { return less(rt_, a.first, b.first); });
    out_ += '{';
    for (size_t i = 0; i < items.size(); ++i) {
      begin_item(i, depth);
      write_string(key_text(items[i].first));
      out_ += style_.key_separator;
      write(items[i].second, depth + 1);
    }
    end_items(items.size(), depth);
    out_ += '}';
  }

  void write_list(const std::vector<Obj>& items, int depth) {
    out_ += '[';
    for (size_t i = 0; i < items.size(); ++i) {
      begin_item(i, depth);
      write(items[i], depth + 1);
    }
    end_items(items.size(), depth);
    out_ += ']';
  }

  void begin_item(size_t i, int depth) {
    if (i) out_ += style_.item_separator;
    if (style_.is_indented) break_line(depth + 1);
  }
  void end_items(size_t count, int depth) {
    if (count && style_.is_indented) break_line(depth);
  }
  void break_line(int depth) {
    out_ += '\n';
    for (int i = 0; i < depth; ++i) {
      rt_.check_size(static_cast<int64_t>(out_.size() + style_.indent.size()));
      out_ += style_.indent;
    }
  }

  Runtime& rt_;
  const JsonStyle& style_;
  std::string& out_;
};

}  // namespace

std::string to_json(Runtime& rt, const Obj& x, const JsonStyle& style) {
  std::string out;
  JsonWriter(rt, style, out).write(x, 0);
  return out;
}

}  // namespace lema::jinja
