// Value to JSON text as Python's json.dumps prints it. The way back is json_parser.cpp.
#include "formats/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iterator>
#include <vector>

#include "core/error.h"

namespace lema {
namespace {

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

std::string dump_json(const Value& value, int indent, bool sort_keys) {
  Dumper dumper{"", indent, sort_keys};
  dumper.value(value, 0);
  return std::move(dumper.out);
}

}  // namespace lema
