// Filters that select, order, group and join the elements of a sequence.
#include "text/jinja_sequence_filters.h"

#include <algorithm>

#include "text/jinja_eval.h"
#include "text/jinja_unicode.h"

namespace lema::jinja::filters {
namespace {

// Reads "a.b.0" of each element: attributes or items, numbers are indices. A missing value becomes
// `fallback` when that is given. Without attribute: the element itself. With ignore_case, strings
// compare in lower case.
class Getter {
 public:
  Getter(Interpreter& in, const Obj& attribute, bool ignore_case, Obj fallback = Obj::none())
      : in_(in), ignore_case_(ignore_case), fallback_(fallback) {
    if (attribute.is(Type::None)) return;
    if (!attribute.is(Type::String)) {
      path_.push_back(attribute);
      return;
    }
    for (std::string_view rest = attribute.str();;) {
      const size_t dot = rest.find('.');
      path_.push_back(part(rest.substr(0, dot)));
      if (dot == rest.npos) break;
      rest.remove_prefix(dot + 1);
    }
  }

  Obj operator()(Obj x) const {
    for (const Obj& key : path_) {
      x = get_item(in_, x, key);
      if (x.is(Type::Undefined) && !fallback_.is(Type::None)) x = fallback_;
    }
    if (!ignore_case_ || !x.is(Type::String)) return x;
    return in_.string(to_lower(x.str()));
  }

 private:
  static Obj part(std::string_view text) {
    const bool is_index =
        !text.empty() && text.size() < 18 &&
        std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
    return is_index ? Obj::integer(std::stoll(std::string(text))) : Obj::string(text);
  }

  Interpreter& in_;
  bool ignore_case_;
  Obj fallback_;
  std::vector<Obj> path_;
};

Obj generator(Interpreter& in, std::vector<Obj> out) {
  return in.sequence(std::move(out), Sequence::Kind::Generator);
}

using Keyed = std::pair<Obj, Obj>;  // sort key, element

std::vector<Obj> sorted(Interpreter& in, std::vector<Keyed> keyed, bool reverse) {
  in.charge(static_cast<int64_t>(keyed.size() * 2 * sizeof(Keyed)));
  std::stable_sort(keyed.begin(), keyed.end(), [&](const Keyed& a, const Keyed& b) {
    return reverse ? less(in, b.first, a.first) : less(in, a.first, b.first);
  });
  std::vector<Obj> out;
  out.reserve(keyed.size());
  for (const Keyed& k : keyed) out.push_back(k.second);
  return out;
}

// The arguments after the first `count` positional ones.
Args rest_of(Interpreter& in, const Args& args, size_t count) {
  const auto from = args.positional.begin() + static_cast<std::ptrdiff_t>(count);
  in.charge(static_cast<int64_t>((args.positional.size() - count) * sizeof(Obj) +
                                 args.named.size() * sizeof(args.named[0])));
  in.step(static_cast<int64_t>((args.positional.size() + args.named.size()) / 16));
  return {{from, args.positional.end()}, args.named};
}

// The elements that `keeps` accepts: by a test of the given name, or by their truth.
Obj filtered(Interpreter& in, const Obj& x, const Args& args, bool keep_if, bool by_attribute) {
  if (!truthy(x)) return generator(in, {});
  if (!args.named.empty() && args.positional.size() < (by_attribute ? 2u : 1u))
    in.error("select takes a test before keyword arguments");
  if (by_attribute && args.positional.empty()) in.error("the name of an attribute is missing");
  const Getter get(in, by_attribute ? args.positional[0] : Obj::none(), false);
  const size_t test_at = by_attribute ? 1 : 0;
  const bool has_test = args.positional.size() > test_at;
  std::string_view test;
  if (has_test) {
    if (!args.positional[test_at].is(Type::String)) in.error("the name of a test must be a string");
    test = args.positional[test_at].str();
  }
  const Args rest = has_test ? rest_of(in, args, test_at + 1) : Args{};
  std::vector<Obj> out;
  for (const Obj& item : iterate(in, x)) {
    const Obj value = get(item);
    if ((has_test ? in.apply_test(test, value, rest) : truthy(value)) == keep_if)
      out.push_back(item);
  }
  return generator(in, std::move(out));
}

Obj extreme(Interpreter& in, const Obj& x, const Args& args, bool largest) {
  const Bound b(in, largest ? "max" : "min", args, {"case_sensitive", "attribute"});
  const Getter get(in, b.or_else(1, Obj::none()), !b.flag(0));
  Obj best = Obj::undefined(Missing::Empty), best_key;
  bool is_first = true;
  for (const Obj& item : iterate(in, x)) {
    const Obj key = get(item);
    if (!is_first && !(largest ? less(in, best_key, key) : less(in, key, best_key))) continue;
    is_first = false;
    best = item;
    best_key = key;
  }
  return best;
}

}  // namespace

Obj attr(Interpreter& in, const Obj& x, const Args& args) {
  const Bound b(in, "attr", args, {"name"}, 1);
  return x.is(Type::Loop) ? in.attribute(x, b.text(0, "")) : get_method(in, x, b.text(0, ""));
}

Obj batch(Interpreter& in, const Obj& x, const Args& args) {
  const Bound b(in, "batch", args, {"linecount", "fill_with"}, 1);
  const auto size = static_cast<size_t>(std::max<int64_t>(b.integer(0, 0), 0));
  if (size > static_cast<size_t>(kMaxRange)) in.error("batch: rows of {}", size);
  std::vector<Obj> rows, row;
  for (const Obj& item : iterate(in, x)) {
    if (row.size() == size && !row.empty()) rows.push_back(in.sequence(std::exchange(row, {})));
    row.push_back(item);
  }
  if (!row.empty()) {
    const Obj fill = b.or_else(1, Obj::none());
    if (!fill.is(Type::None)) row.resize(std::max(size, row.size()), fill);
    rows.push_back(in.sequence(std::move(row)));
  }
  return generator(in, std::move(rows));
}

Obj slice(Interpreter& in, const Obj& x, const Args& args) {
  const Bound b(in, "slice", args, {"slices", "fill_with"}, 1);
  const int64_t count = b.integer(0, 0);
  if (count < 1 || count > kMaxRange) in.error("slice: {} slices", count);
  const std::vector<Obj> all = iterate(in, x);
  const auto slices = static_cast<size_t>(count);
  const size_t each = all.size() / slices, longer = all.size() % slices;
  const Obj fill = b.or_else(1, Obj::none());
  std::vector<Obj> rows;
  auto at = all.begin();
  for (size_t i = 0; i < slices; ++i) {
    const auto end = at + static_cast<int64_t>(each + (i < longer));
    std::vector<Obj> row(at, end);
    if (!fill.is(Type::None) && i >= longer) row.push_back(fill);
    rows.push_back(in.sequence(std::move(row)));
    at = end;
  }
  return generator(in, std::move(rows));
}

Obj dictsort(Interpreter& in, const Obj& x, const Args& args) {
  const Bound b(in, "dictsort", args, {"case_sensitive", "by", "reverse"});
  const std::string_view by = b.text(1, "key");
  if (by != "key" && by != "value") in.error("dictsort: by must be key or value");
  if (!x.is(Type::Dict)) in.error("dictsort needs a dict, found {}", type_name(x));
  const Getter key_of(in, Obj::none(), !b.flag(0));
  std::vector<Keyed> keyed;
  for (const auto& [key, value] : x.dict->items)
    keyed.emplace_back(key_of(by == "key" ? key : value), in.pair(key, value));
  return in.sequence(sorted(in, std::move(keyed), b.flag(2)));
}

Obj sort(Interpreter& in, const Obj& x, const Args& args) {
  const Bound b(in, "sort", args, {"reverse", "case_sensitive", "attribute"});
  std::vector<Getter> getters;
  const Obj attribute = b.or_else(2, Obj::none());
  std::string_view rest = attribute.is(Type::String) ? attribute.str() : std::string_view();
  for (size_t comma = 0; (comma = rest.find(',')) != rest.npos; rest.remove_prefix(comma + 1))
    getters.emplace_back(in, Obj::string(rest.substr(0, comma)), !b.flag(1));
  getters.emplace_back(in, attribute.is(Type::String) ? Obj::string(rest) : attribute, !b.flag(1));
  std::vector<Keyed> keyed;
  for (const Obj& item : iterate(in, x)) {
    std::vector<Obj> keys;
    for (const Getter& get : getters) keys.push_back(get(item));
    keyed.emplace_back(keys.size() == 1 ? keys[0] : in.sequence(keys), item);
  }
  return in.sequence(sorted(in, std::move(keyed), b.flag(0)));
}

Obj unique(Interpreter& in, const Obj& x, const Args& args) {
  const Bound b(in, "unique", args, {"case_sensitive", "attribute"});
  const Getter get(in, b.or_else(1, Obj::none()), !b.flag(0));
  Dict seen;
  std::vector<Obj> out;
  for (const Obj& item : iterate(in, x)) {
    const Obj key = get(item);
    if (find(in, seen, key)) continue;
    put(in, seen, key, Obj::none());
    out.push_back(item);
  }
  return generator(in, std::move(out));
}

Obj groupby(Interpreter& in, const Obj& x, const Args& args) {
  const Bound b(in, "groupby", args, {"attribute", "default", "case_sensitive"}, 1);
  const Getter key_of(in, b[0], !b.flag(2), b.or_else(1, Obj::none()));
  const Getter shown(in, b[0], false, b.or_else(1, Obj::none()));
  std::vector<Keyed> keyed;
  for (const Obj& item : iterate(in, x)) keyed.emplace_back(key_of(item), item);
  std::vector<Obj> groups, members;
  Obj key;
  const auto close = [&] {
    if (members.empty()) return;
    const Obj name = shown(members[0]);
    groups.push_back(
        in.sequence({name, in.sequence(std::exchange(members, {}))}, Sequence::Kind::Group));
  };
  for (const Obj& item : sorted(in, std::move(keyed), false)) {
    const Obj next = key_of(item);
    if (!members.empty() && !equal(in, key, next)) close();
    key = next;
    members.push_back(item);
  }
  close();
  return in.sequence(std::move(groups));
}

Obj items(Interpreter& in, const Obj& x, const Args& args) {
  const Bound b(in, "items", args, {});
  if (x.is(Type::Undefined)) return generator(in, {});
  if (!x.is(Type::Dict)) in.error("items needs a mapping, found {}", type_name(x));
  std::vector<Obj> out;
  for (const auto& [key, value] : x.dict->items) out.push_back(in.pair(key, value));
  return generator(in, std::move(out));
}

Obj join(Interpreter& in, const Obj& x, const Args& args) {
  const Bound b(in, "join", args, {"d", "attribute"});
  const std::string separator = to_str(in, b.or_else(0, Obj::string("")));
  const Getter get(in, b.or_else(1, Obj::none()), false);
  std::string out;
  bool is_first = true;
  for (const Obj& item : iterate(in, x)) {
    if (!is_first) out += separator;
    in.check_size(static_cast<int64_t>(out.size()));
    in.scan(is_first ? 0 : separator.size());
    is_first = false;
    append_str(in, out, get(item));
  }
  return in.string(std::move(out));
}

Obj first(Interpreter& in, const Obj& x, const Args& args) {
  const Bound b(in, "first", args, {});
  if (x.is(Type::Sequence)) {
    Sequence& seq = *x.seq;
    const bool is_generator = seq.kind == Sequence::Kind::Generator;
    const size_t at = is_generator ? seq.taken : 0;
    if (at >= seq.items.size()) return Obj::undefined(Missing::Empty);
    if (is_generator) ++seq.taken;
    return seq.items[at];
  }
  const std::vector<Obj> all = iterate(in, x);
  return all.empty() ? Obj::undefined(Missing::Empty) : all.front();
}

Obj last(Interpreter& in, const Obj& x, const Args& args) {
  const Bound b(in, "last", args, {});
  if (x.is(Type::Sequence) && x.seq->kind == Sequence::Kind::Generator)
    in.error("a generator cannot be reversed");
  const std::vector<Obj> all = iterate(in, x);
  return all.empty() ? Obj::undefined(Missing::Empty) : all.back();
}

Obj list(Interpreter& in, const Obj& x, const Args& args) {
  const Bound b(in, "list", args, {});
  return in.sequence(iterate(in, x));
}

Obj reverse(Interpreter& in, const Obj& x, const Args& args) {
  const Bound b(in, "reverse", args, {});
  std::vector<Obj> all = iterate(in, x);
  std::reverse(all.begin(), all.end());
  if (!x.is(Type::String)) {
    const bool was_generator = x.is(Type::Sequence) && x.seq->kind == Sequence::Kind::Generator;
    return in.sequence(std::move(all),
                       was_generator ? Sequence::Kind::List : Sequence::Kind::Generator);
  }
  std::string out;
  for (const Obj& letter : all) out += letter.str();
  return in.string(std::move(out), x.markup);
}

Obj map(Interpreter& in, const Obj& x, const Args& args) {
  if (!truthy(x)) return generator(in, {});
  std::vector<Obj> out;
  if (args.positional.empty()) {
    const Bound b(in, "map", args, {"attribute", "default"}, 1);
    const Getter get(in, b[0], false, b.or_else(1, Obj::none()));
    for (const Obj& item : iterate(in, x)) out.push_back(get(item));
    return generator(in, std::move(out));
  }
  const Obj& name = args.positional[0];
  if (!name.is(Type::String)) in.error("map: the name of a filter must be a string");
  const Args rest = rest_of(in, args, 1);
  for (const Obj& item : iterate(in, x)) out.push_back(in.apply_filter(name.str(), item, rest));
  return generator(in, std::move(out));
}

Obj sum(Interpreter& in, const Obj& x, const Args& args) {
  const Bound b(in, "sum", args, {"attribute", "start"});
  const Getter get(in, b.or_else(0, Obj::none()), false);
  Obj total = b.or_else(1, Obj::integer(0));
  if (total.is(Type::String)) in.error("sum cannot add strings");
  for (const Obj& item : iterate(in, x)) total = arithmetic(in, Op::Add, total, get(item));
  return total;
}

Obj max(Interpreter& in, const Obj& x, const Args& args) { return extreme(in, x, args, true); }
Obj min(Interpreter& in, const Obj& x, const Args& args) { return extreme(in, x, args, false); }
Obj select(Interpreter& in, const Obj& x, const Args& args) {
  return filtered(in, x, args, true, false);
}
Obj reject(Interpreter& in, const Obj& x, const Args& args) {
  return filtered(in, x, args, false, false);
}
Obj selectattr(Interpreter& in, const Obj& x, const Args& args) {
  return filtered(in, x, args, true, true);
}
Obj rejectattr(Interpreter& in, const Obj& x, const Args& args) {
  return filtered(in, x, args, false, true);
}

}  // namespace lema::jinja::filters
