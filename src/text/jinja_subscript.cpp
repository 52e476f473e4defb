// Attributes, subscripts and slices of template values. What is not data cannot be reached.
#include <algorithm>

#include "text/jinja_ops.h"
#include "text/jinja_unicode.h"

namespace lema::jinja {

namespace {

// Element `index` (negative: from the end), or Undefined.
Obj element(const Obj& x, int64_t index, const Obj& missing) {
  const int64_t count = length(x);
  if (index < 0) index += count;
  if (index < 0 || index >= count) return missing;
  if (x.is(Type::Sequence)) return x.seq->items[static_cast<size_t>(index)];
  const size_t start = byte_offset(x.str(), index);
  size_t end = start;
  next_code_point(x.str(), end);
  return Obj::string(x.str().substr(start, end - start), x.markup);
}

bool is_indexable(const Obj& x) {
  return x.is(Type::String) || (x.is(Type::Sequence) && x.seq->is_indexable());
}

bool is_dunder(std::string_view name) { return name.starts_with("__") && name.ends_with("__"); }

bool is_mutator(const Obj& x, std::string_view name) {
  static constexpr std::string_view kDict[] = {"clear",      "pop",    "popitem",
                                               "setdefault", "update", "fromkeys"};
  static constexpr std::string_view kList[] = {"append", "clear", "pop",    "reverse",
                                               "insert", "sort",  "extend", "remove"};
  if (x.is(Type::Dict))
    return std::find(std::begin(kDict), std::end(kDict), name) != std::end(kDict);
  if (!x.is(Type::Sequence) || x.seq->kind != Sequence::Kind::List) return false;
  return std::find(std::begin(kList), std::end(kList), name) != std::end(kList);
}

Obj name_of(Runtime& rt, const Obj& key) {
  return key.is(Type::String) ? key : rt.string(to_str(rt, key));
}

}  // namespace

Obj get_method(Runtime& rt, const Obj& x, std::string_view name) {
  if (x.is(Type::Undefined)) rt.error("{}", explain_undefined(x));
  if (is_dunder(name) || is_mutator(x, name)) return Obj::undefined(Missing::Unsafe, name);
  if (x.is(Type::Namespace)) {
    const Obj* found = find(rt, *x.dict, Obj::string(name));
    return found ? *found : Obj::undefined(Missing::Attribute, name);
  }
  if (x.is(Type::Sequence) && x.seq->kind == Sequence::Kind::Group &&
      (name == "grouper" || name == "list"))
    return x.seq->items[name == "list"];
  if (x.is(Type::Cycler) && name == "current") return x.cycler->items[x.cycler->at];
  if (has_method(x, name)) return rt.method(x, name);
  return Obj::undefined(Missing::Attribute, name);
}

Obj get_attribute(Runtime& rt, const Obj& x, std::string_view name) {
  Obj found = get_method(rt, x, name);
  if (x.is(Type::Dict) && found.is(Type::Undefined) && found.missing == Missing::Attribute)
    if (const Obj* member = find(rt, *x.dict, Obj::string(name))) return *member;
  return found;
}

Obj get_item(Runtime& rt, const Obj& x, const Obj& key) {
  if (x.is(Type::Undefined)) rt.error("{}", explain_undefined(x));
  if (x.is(Type::Dict) && is_hashable(rt, key))
    if (const Obj* member = find(rt, *x.dict, key)) return *member;
  if (key.is_integer() && is_indexable(x)) {
    rt.scan(x.is(Type::String) ? x.size : 0);
    return element(x, key.as_int(), Obj::undefined(Missing::Attribute, name_of(rt, key).str()));
  }
  if (key.is(Type::String)) return get_method(rt, x, key.str());
  return Obj::undefined(Missing::Attribute, name_of(rt, key).str());
}

Obj get_slice(Runtime& rt, const Obj& x, const Obj* start, const Obj* stop, const Obj* step) {
  if (x.is(Type::Undefined)) rt.error("{}", explain_undefined(x));
  if (!is_indexable(x)) rt.error("a {} cannot be sliced", type_name(x));
  const auto part = [&](const Obj* o, int64_t fallback) {
    if (!o || o->is(Type::None)) return fallback;
    if (!o->is_integer()) rt.error("slice indices must be integers, found {}", type_name(*o));
    return o->as_int();
  };
  const int64_t count = length(x), by = part(step, 1);
  if (by == 0) rt.error("slice step cannot be zero");
  const auto clamp = [&](int64_t i) {
    if (i < 0) i += count;
    return by > 0 ? std::clamp<int64_t>(i, 0, count) : std::clamp<int64_t>(i, -1, count - 1);
  };
  const int64_t from = start && !start->is(Type::None) ? clamp(part(start, 0))
                       : by > 0                        ? 0
                                                       : count - 1;
  const int64_t to = stop && !stop->is(Type::None) ? clamp(part(stop, 0)) : by > 0 ? count : -1;

  if (x.is(Type::String)) {
    rt.scan(x.size);
    if (by == 1) {
      const size_t begin = byte_offset(x.str(), from),
                   end = byte_offset(x.str(), std::max(from, to));
      return Obj::string(x.str().substr(begin, end - begin), x.markup);
    }
    rt.charge(count * 4);
    const std::vector<int32_t> letters = decode(x.str());
    std::string out;
    for (int64_t i = from; by > 0 ? i < to : i > to;) {
      append_code_point(out, letters[static_cast<size_t>(i)]);
      if (__builtin_add_overflow(i, by, &i)) break;
    }
    return rt.string(std::move(out), x.markup);
  }
  std::vector<Obj> items;
  rt.step(count / 16);
  for (int64_t i = from; by > 0 ? i < to : i > to;) {
    items.push_back(x.seq->items[static_cast<size_t>(i)]);
    if (__builtin_add_overflow(i, by, &i)) break;
  }
  return rt.sequence(std::move(items),
                     x.seq->kind == Sequence::Kind::Group ? Sequence::Kind::Tuple : x.seq->kind);
}

}  // namespace lema::jinja
