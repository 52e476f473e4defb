// Filters over text, numbers and single values, and the table of all filters. Those over sequences
// are in jinja_sequence_filters.cpp.
#include "text/jinja_filters.h"

#include <charconv>
#include <cmath>
#include <unordered_map>

#include "text/jinja_eval.h"
#include "text/jinja_sequence_filters.h"
#include "text/jinja_unicode.h"

namespace lema::jinja {
namespace {

template <std::string (*kMap)(std::string_view)>
Obj mapped(Interpreter& in, const Obj& x, const Args& args) {
  const Bound b(in, "the filter", args, {});
  const std::string text = to_str(in, x);
  in.scan(text.size() * 4);
  return in.string(kMap(text), x.is(Type::String) && x.markup);
}

// Words begin after white space or one of - ( { [ <.
std::string title_words(std::string_view text) {
  std::string out;
  const auto separates = [](int32_t c) {
    return is_space(c) || (c < 0x80 && std::string_view("-({[<").find(static_cast<char>(c)) !=
                                           std::string_view::npos);
  };
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    if (separates(next_code_point(text, at))) {
      out += text.substr(start, at - start);
      continue;
    }
    const size_t first = at;
    while (at < text.size()) {
      size_t next = at;
      if (separates(next_code_point(text, next))) break;
      at = next;
    }
    out += to_upper(text.substr(start, first - start)) + to_lower(text.substr(first, at - first));
  }
  return out;
}

Obj trim(Interpreter& in, const Obj& x, const Args& args) {
  const Bound b(in, "trim", args, {"chars"});
  b.text(0, "");
  return in.string(strip(to_str(in, x), b.or_else(0, Obj::none()), true, true),
                   x.is(Type::String) && x.markup);
}

Obj length_filter(Interpreter& in, const Obj& x, const Args& args) {
  const Bound b(in, "length", args, {});
  const int64_t n = length(x);
  if (n < 0) in.error("a {} has no length", type_name(x));
  in.scan(x.is(Type::String) ? x.size : 0);
  return Obj::integer(n);
}

Obj tojson(Interpreter& in, const Obj& x, const Args& args) {
  const Bound b(in, "tojson", args, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = b.flag(0);
  style.sort_keys = b.flag(3);
  if (b.has(1) && !b[1].is(Type::None)) {
    style.is_indented = true;
    style.item_separator = ",";
    if (b[1].is(Type::String)) {
      style.indent = b[1].str();
    } else {
      const int64_t width = b.integer(1, 0);
      if (width > 1000) in.error("tojson: an indent of {}", width);
      style.indent.assign(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
    }
  }
  if (b.has(2) && !b[2].is(Type::None)) {
    const std::vector<Obj> both = iterate(in, b[2]);
    if (both.size() != 2 || !both[0].is(Type::String) || !both[1].is(Type::String))
      in.error("tojson: separators must be two strings");
    style.item_separator = both[0].str();
    style.key_separator = both[1].str();
  }
  return in.string(to_json(in, x, style));
}

Obj default_filter(Interpreter& in, const Obj& x, const Args& args) {
  const Bound b(in, "default", args, {"default_value", "boolean"});
  const bool use = x.is(Type::Undefined) || (b.flag(1) && !truthy(x));
  return use ? b.or_else(0, Obj::string("")) : x;
}

Obj replace_filter(Interpreter& in, const Obj& x, const Args& args) {
  const Bound b(in, "replace", args, {"old", "new", "count"}, 2);
  return in.string(
      replace(in, to_str(in, x), to_str(in, b[0]), to_str(in, b[1]), b.integer(2, -1)));
}

Obj string_filter(Interpreter& in, const Obj& x, const Args& args) {
  const Bound b(in, "string", args, {});
  return x.is(Type::String) ? x : in.string(to_str(in, x));
}

Obj safe(Interpreter& in, const Obj& x, const Args& args) {
  const Bound b(in, "safe", args, {});
  return in.string(to_str(in, x), true);
}

Obj escape_filter(Interpreter& in, const Obj& x, const Args& args) {
  const Bound b(in, "escape", args, {});
  if (x.is(Type::String) && x.markup) return x;
  const std::string text = to_str(in, x);
  in.check_size(static_cast<int64_t>(text.size()) * 5);
  return in.string(escape_html(text), true);
}

Obj indent(Interpreter& in, const Obj& x, const Args& args) {
  const Bound b(in, "indent", args, {"width", "first", "blank"});
  if (!x.is(Type::String)) in.error("indent needs a string, found {}", type_name(x));
  const bool by_text = b.has(0) && b[0].is(Type::String);
  const int64_t width = by_text ? 0 : b.integer(0, 4);
  in.check_size(width);
  std::string pad(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  if (by_text) pad = b[0].str();
  const std::string text = std::string(x.str()) + "\n";
  std::string out = b.flag(1) ? pad : "";
  bool is_first = true;
  for (const std::string_view row : split_lines(text)) {
    if (!is_first) out += '\n';
    if (!is_first && (b.flag(2) || !row.empty())) out += pad;
    out += row;
    in.check_size(static_cast<int64_t>(out.size()));
    is_first = false;
  }
  return in.string(std::move(out), x.markup);
}

Obj format_filter(Interpreter& in, const Obj& x, const Args& args) {
  if (!args.positional.empty() && !args.named.empty())
    in.error("format takes positional or keyword arguments");
  const Obj values = args.named.empty() ? in.sequence(args.positional, Sequence::Kind::Tuple)
                                        : in.dict(make_dict(in, {{}, args.named}));
  return in.string(format_percent(in, to_str(in, x), values));
}

Obj center(Interpreter& in, const Obj& x, const Args& args) {
  const Bound b(in, "center", args, {"width"});
  return call_method(in, in.string(to_str(in, x)), "center",
                     {{Obj::integer(b.integer(0, 80))}, {}});
}

Obj truncate(Interpreter& in, const Obj& x, const Args& args) {
  const Bound b(in, "truncate", args, {"length", "killwords", "end", "leeway"});
  if (x.is(Type::Undefined)) return x;
  if (!x.is(Type::String)) in.error("truncate needs a string, found {}", type_name(x));
  const int64_t limit = b.integer(0, 255), leeway = b.integer(3, 5);
  const std::string_view end = b.text(2, "...");
  if (limit < code_points(end) || leeway < 0)
    in.error("truncate: the length is less than its end mark");
  if (code_points(x.str()) - limit <= leeway) return x;
  std::string_view head = x.str().substr(0, byte_offset(x.str(), limit - code_points(end)));
  if (!b.flag(1)) head = head.substr(0, head.rfind(' '));
  return in.string(std::string(head) + std::string(end));
}

Obj wordcount(Interpreter& in, const Obj& x, const Args& args) {
  const Bound b(in, "wordcount", args, {});
  const std::string text = to_str(in, x);
  int64_t n = 0;
  bool inside = false;
  for (size_t at = 0; at < text.size();) {
    const int32_t c = next_code_point(text, at);
    const bool is_word = is_letter(c) || is_decimal(c) || c == '_';
    n += is_word && !inside;
    inside = is_word;
  }
  return Obj::integer(n);
}

// --- numbers ---

// A Python number literal with white space around it, "_" between digits.
std::string number_text(std::string_view text) {
  std::string out(rstrip(lstrip(text)));
  for (size_t i = 1; i + 1 < out.size(); ++i)
    if (out[i] == '_' && std::isdigit(out[i - 1]) && std::isdigit(out[i + 1])) out.erase(i, 1);
  return out;
}

bool parse_float(std::string_view text, double& out) {
  const std::string number = number_text(text);
  if (number.find_first_of("xX_(") != number.npos || number.empty() || is_space(number[0]))
    return false;
  char* end = nullptr;
  out = std::strtod(number.c_str(), &end);
  return end == number.c_str() + number.size();
}

bool parse_int(std::string_view text, int base, int64_t& out) {
  std::string number = number_text(text);
  const bool is_negative = number.starts_with('-');
  if (is_negative || number.starts_with('+')) number.erase(0, 1);
  const std::string prefix = base == 16 ? "0x" : base == 8 ? "0o" : base == 2 ? "0b" : "-";
  if (to_lower(number).starts_with(prefix)) number.erase(0, 2);
  if (number.starts_with('-')) return false;
  if (is_negative) number.insert(0, "-");
  const auto [end, code] = std::from_chars(number.data(), number.data() + number.size(), out, base);
  return code == std::errc{} && end == number.data() + number.size();
}

Obj int_filter(Interpreter& in, const Obj& x, const Args& args) {
  const Bound b(in, "int", args, {"default", "base"});
  const Obj fallback = b.or_else(0, Obj::integer(0));
  const int64_t base = b.integer(1, 10);
  if (base < 2 || base > 36) in.error("int: base {}", base);
  if (x.is(Type::Undefined)) in.error("{}", explain_undefined(x));
  if (x.is_integer()) return Obj::integer(x.as_int());
  int64_t whole = 0;
  double number = x.f;
  if (x.is(Type::String)) {
    if (parse_int(x.str(), static_cast<int>(base), whole)) return Obj::integer(whole);
    if (!parse_float(x.str(), number) || !std::isfinite(number)) return fallback;
  } else if (!x.is(Type::Float) || std::isnan(number)) {
    return fallback;
  }
  if (std::fabs(number) >= 0x1p63) in.error("int: an integer beyond 64 bits");
  return Obj::integer(static_cast<int64_t>(number));
}

Obj float_filter(Interpreter& in, const Obj& x, const Args& args) {
  const Bound b(in, "float", args, {"default"});
  if (x.is(Type::Undefined)) in.error("{}", explain_undefined(x));
  if (x.is_number()) return Obj::real(x.as_double());
  double number = 0;
  if (x.is(Type::String) && parse_float(x.str(), number)) return Obj::real(number);
  return b.or_else(0, Obj::real(0));
}

Obj abs_filter(Interpreter& in, const Obj& x, const Args& args) {
  const Bound b(in, "abs", args, {});
  if (x.is(Type::Float)) return Obj::real(std::fabs(x.f));
  if (!x.is_integer()) in.error("abs needs a number, found {}", type_name(x));
  return x.as_int() < 0 ? negative(in, x) : Obj::integer(x.as_int());
}

Obj round_filter(Interpreter& in, const Obj& x, const Args& args) {
  const Bound b(in, "round", args, {"precision", "method"});
  const int64_t precision = b.integer(0, 0);
  const std::string_view method = b.text(1, "common");
  if (!x.is_number()) in.error("round needs a number, found {}", type_name(x));
  if (precision < 0 || precision > 300) in.error("round: a precision of {}", precision);
  const double scale = std::pow(10.0, static_cast<double>(precision));
  if (method == "ceil") return Obj::real(std::ceil(x.as_double() * scale) / scale);
  if (method == "floor") return Obj::real(std::floor(x.as_double() * scale) / scale);
  if (method != "common") in.error("round: method must be common, ceil or floor");
  if (x.is_integer()) return Obj::integer(x.as_int());
  return Obj::real(std::strtod(fmt::format("{:.{}f}", x.f, precision).c_str(), nullptr));
}

}  // namespace

Filter find_filter(std::string_view name) {
  static const std::unordered_map<std::string_view, Filter> kFilters = {
      {"abs", abs_filter},
      {"attr", filters::attr},
      {"batch", filters::batch},
      {"capitalize", mapped<capitalize>},
      {"center", center},
      {"count", length_filter},
      {"d", default_filter},
      {"default", default_filter},
      {"dictsort", filters::dictsort},
      {"e", escape_filter},
      {"escape", escape_filter},
      {"first", filters::first},
      {"float", float_filter},
      {"format", format_filter},
      {"groupby", filters::groupby},
      {"indent", indent},
      {"int", int_filter},
      {"items", filters::items},
      {"join", filters::join},
      {"last", filters::last},
      {"length", length_filter},
      {"list", filters::list},
      {"lower", mapped<to_lower>},
      {"map", filters::map},
      {"max", filters::max},
      {"min", filters::min},
      {"reject", filters::reject},
      {"rejectattr", filters::rejectattr},
      {"replace", replace_filter},
      {"reverse", filters::reverse},
      {"round", round_filter},
      {"safe", safe},
      {"select", filters::select},
      {"selectattr", filters::selectattr},
      {"slice", filters::slice},
      {"sort", filters::sort},
      {"string", string_filter},
      {"sum", filters::sum},
      {"title", mapped<title_words>},
      {"tojson", tojson},
      {"trim", trim},
      {"truncate", truncate},
      {"unique", filters::unique},
      {"upper", mapped<to_upper>},
      {"wordcount", wordcount},
  };
  const auto found = kFilters.find(name);
  return found == kFilters.end() ? nullptr : found->second;
}

}  // namespace lema::jinja
