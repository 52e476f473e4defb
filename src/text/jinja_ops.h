// Operators, subscripts and methods of template values: what Python does for `a + b`, `x[1:]`,
// `x.y` and `text.split(",")`. Called by the evaluator and the filters.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja_ast.h"
#include "text/jinja_value.h"

namespace lema::jinja {

// The arguments of one call.
struct Args {
  std::vector<Obj> positional;
  std::vector<std::pair<std::string_view, Obj>> named;
};

// Arguments matched to parameter names; a type error for too many, unknown, repeated or missing
// required ones.
class Bound {
 public:
  Bound(Runtime& rt, std::string_view what, const Args& args,
        std::initializer_list<std::string_view> names, size_t required = 0);
  bool has(size_t i) const { return given_[i]; }
  const Obj& operator[](size_t i) const { return values_[i]; }
  Obj or_else(size_t i, Obj fallback) const { return given_[i] ? values_[i] : fallback; }
  bool flag(size_t i, bool fallback = false) const {
    return given_[i] ? truthy(values_[i]) : fallback;
  }
  // Type errors when the argument has another type; None counts as absent.
  int64_t integer(size_t i, int64_t fallback) const;
  std::string_view text(size_t i, std::string_view fallback) const;

 private:
  Runtime& rt_;
  std::string_view what_;
  std::vector<Obj> values_;
  std::vector<bool> given_;
};

Obj arithmetic(Runtime& rt, Op op, const Obj& a, const Obj& b);
Obj negative(Runtime& rt, const Obj& x);
bool compare(Runtime& rt, Op op, const Obj& a, const Obj& b);
bool contains(Runtime& rt, const Obj& container, const Obj& item);

// x.name, x[key], x[start:stop:step] (null: left out). What is not there is Undefined; so is
// everything that is not data: dunder names and the methods that change a list or dict
// (Missing::Unsafe).
Obj get_attribute(Runtime& rt, const Obj& x, std::string_view name);
Obj get_item(Runtime& rt, const Obj& x, const Obj& key);
Obj get_slice(Runtime& rt, const Obj& x, const Obj* start, const Obj* stop, const Obj* step);
// As get_attribute, without the fall-back to items.
Obj get_method(Runtime& rt, const Obj& x, std::string_view name);

bool has_method(const Obj& x, std::string_view name);
Obj call_method(Runtime& rt, const Obj& self, std::string_view name, const Args& args);

// Python's `format % args` and str.format.
std::string format_percent(Runtime& rt, std::string_view format, const Obj& args);
std::string format_braces(Runtime& rt, std::string_view format, const Args& args);
std::string escape_html(std::string_view text);

std::string strip(std::string_view text, const Obj& chars, bool left, bool right);
// Python's str.replace; count < 0 means all.
std::string replace(Runtime& rt, std::string_view text, std::string_view from, std::string_view to,
                    int64_t count);

// dict(...) and range(...).
Dict make_dict(Runtime& rt, const Args& args);
Obj make_range(Runtime& rt, const Args& args);

}  // namespace lema::jinja
