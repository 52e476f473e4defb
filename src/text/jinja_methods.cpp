// The methods of strings, lists and dicts that a template may call, with Python's results. Those
// that would change a list or dict do not exist here.
#include "text/jinja_ops.h"
#include "text/jinja_string_methods.h"

namespace lema::jinja {
namespace {

Obj call_dict_method(Runtime& rt, const Obj& self, std::string_view name, const Args& args) {
  if (name == "get") {
    const Bound b(rt, "get", args, {"key", "default"}, 1);
    const Obj* found = find(rt, *self.dict, b[0]);
    return found ? *found : b.or_else(1, Obj::none());
  }
  const Bound none(rt, name, args, {});
  const auto& items = self.dict->items;
  if (name == "copy") {
    rt.charge(static_cast<int64_t>(items.size() * 2 * sizeof(Obj)));
    return rt.dict(*self.dict);
  }
  rt.step(static_cast<int64_t>(items.size() / 16));
  std::vector<Obj> out;
  out.reserve(items.size());
  for (const auto& [key, value] : items)
    out.push_back(name == "keys" ? key : name == "values" ? value : rt.pair(key, value));
  return rt.sequence(std::move(out), name == "keys"     ? Sequence::Kind::Keys
                                     : name == "values" ? Sequence::Kind::Values
                                                        : Sequence::Kind::Items);
}

Obj call_sequence_method(Runtime& rt, const Obj& self, std::string_view name, const Args& args) {
  if (name == "copy") return rt.sequence(self.seq->items);
  const Bound b(rt, name, args, {"value"}, 1);
  int64_t n = 0;
  for (size_t i = 0; i < self.seq->items.size(); ++i) {
    if (!equal(rt, self.seq->items[i], b[0])) continue;
    if (name == "index") return Obj::integer(static_cast<int64_t>(i));
    ++n;
  }
  if (name == "index") rt.error("index: the value is not in the list");
  return Obj::integer(n);
}

Obj call_cycler_method(Runtime& rt, const Obj& self, std::string_view name, const Args& args) {
  const Bound none(rt, name, args, {});
  CyclerState& state = *self.cycler;
  const Obj current = state.items[state.at];
  state.at = name == "next" ? (state.at + 1) % state.items.size() : 0;
  return name == "next" ? current : Obj::none();
}

}  // namespace

bool has_method(const Obj& x, std::string_view name) {
  switch (x.type) {
    case Type::String:
      return find_string_method(name) != nullptr;
    case Type::Dict:
      return name == "get" || name == "items" || name == "keys" || name == "values" ||
             name == "copy";
    case Type::Sequence:
      if (!x.seq->is_indexable()) return false;
      return name == "index" || name == "count" ||
             (name == "copy" && x.seq->kind == Sequence::Kind::List);
    case Type::Cycler:
      return name == "next" || name == "reset";
    default:
      return false;
  }
}

Obj call_method(Runtime& rt, const Obj& self, std::string_view name, const Args& args) {
  rt.step();
  switch (self.type) {
    case Type::String:
      return find_string_method(name)(rt, self, args);
    case Type::Dict:
      return call_dict_method(rt, self, name, args);
    case Type::Cycler:
      return call_cycler_method(rt, self, name, args);
    default:
      return call_sequence_method(rt, self, name, args);
  }
}

}  // namespace lema::jinja
