// TOML text to Value through toml++, built without exceptions. Run configs come through here when
// they end in .toml.
#include "formats/toml.h"

#define TOML_EXCEPTIONS 0
#define TOML_ENABLE_FORMATTERS 0
#define TOML_MAX_NESTED_VALUES 64  // as kMaxDepth
#include <toml++/toml.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "core/error.h"

namespace lema {
namespace {

// A dotted key nests one table a dot, without a limit in the library; a key lies on one line.
constexpr int kMaxDotsInLine = 100;
constexpr int kMaxDepth = 64;

class Converter {
 public:
  explicit Converter(const std::string& source) : source_(source) {}

  // `line` is the parent's, for tables that exist only through a longer key.
  Value convert(const toml::node& node, int line, int depth = 0) const {
    if (node.source().begin) line = static_cast<int>(node.source().begin.line);
    if (depth > kMaxDepth)
      fail(ErrorCode::BadInput, "{}:{}:1: nested deeper than {} levels", source_, line, kMaxDepth);
    Value value = content(node, line, depth);
    value.line = line;
    return value;
  }

 private:
  Value content(const toml::node& node, int line, int depth) const {
    switch (node.type()) {
      case toml::node_type::table:
        return table(*node.as_table(), line, depth);
      case toml::node_type::array: {
        Value::Array elements;
        for (const toml::node& element : *node.as_array())
          elements.push_back(convert(element, line, depth + 1));
        return elements;
      }
      case toml::node_type::string:
        return Value(node.as_string()->get());
      case toml::node_type::integer:
        return Value(node.as_integer()->get());
      case toml::node_type::boolean:
        return Value(node.as_boolean()->get());
      case toml::node_type::floating_point: {
        const double x = node.as_floating_point()->get();
        if (!std::isfinite(x)) refuse(node, "infinity and NaN are not accepted");
        return Value(x);
      }
      default:
        refuse(node, "dates and times are not accepted; write a string");
    }
  }

  // The library sorts keys by name; places bring back the order of the file.
  Value table(const toml::table& members, int line, int depth) const {
    std::vector<std::pair<toml::source_position, std::pair<std::string, Value>>> placed;
    for (const auto& [key, node] : members)
      placed.push_back(
          {key.source().begin, {std::string(key.str()), convert(node, line, depth + 1)}});
    std::stable_sort(placed.begin(), placed.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    Value::Object object;
    for (auto& item : placed) object.push_back(std::move(item.second));
    return object;
  }

  [[noreturn]] void refuse(const toml::node& node, std::string_view reason) const {
    const auto& at = node.source().begin;
    fail(ErrorCode::BadInput, "{}:{}:{}: {}", source_, at.line, at.column, reason);
  }

  const std::string& source_;
};

// Where the string that begins at `at` ends, past its quotes; a string of one line ends with its
// line, as the library then refuses it.
size_t end_of_string(std::string_view text, size_t at) {
  const char quote = text[at];
  const bool has_escapes = quote == '"';
  const std::string triple(3, quote);
  const bool is_long = text.substr(at).starts_with(triple);
  for (at += is_long ? 3 : 1; at < text.size(); ++at) {
    if (!is_long && text[at] == '\n') return at;
    if (has_escapes && text[at] == '\\' && at + 1 < text.size() && text[at + 1] != '\n') {
      ++at;
    } else if (is_long && text.substr(at).starts_with(triple)) {
      at += 3;  // up to two more quotes are the string's last characters
      for (int more = 0; more < 2 && at < text.size() && text[at] == quote; ++more) ++at;
      return at;
    } else if (!is_long && text[at] == quote) {
      return at + 1;
    }
  }
  return at;
}

// Counts what may be dots of keys: those outside strings and comments.
void check_dots(std::string_view text, const std::string& source) {
  int line = 1, dots = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    if (text[at] == '"' || text[at] == '\'') {
      at = end_of_string(text, at);
    } else if (text[at] == '#') {
      at = std::min(text.find('\n', at), text.size());
    } else {
      ++at;
    }
    const std::string_view part = text.substr(start, at - start);
    if (const auto lines = std::count(part.begin(), part.end(), '\n'))
      line += static_cast<int>(lines), dots = 0;
    if (part == "." && ++dots > kMaxDotsInLine)
      fail(ErrorCode::BadInput, "{}:{}:1: more than {} dots in one line", source, line,
           kMaxDotsInLine);
  }
}

}  // namespace

Value parse_toml(std::string_view text, const std::string& source) {
  if (text.starts_with("\xef\xbb\xbf"))
    fail(ErrorCode::BadInput, "{}:1:1: the text starts with a byte order mark (BOM); remove it",
         source);
  check_dots(text, source);
  const toml::parse_result result = toml::parse(text);
  if (!result) {
    const auto& at = result.error().source().begin;
    fail(ErrorCode::BadInput, "{}:{}:{}: {}", source, at.line, at.column,
         escaped(result.error().description()));
  }
  return Converter(source).convert(result.table(), 1);
}

}  // namespace lema
