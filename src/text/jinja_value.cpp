// Values of a running template: the metered heap, truth, equality, order and iteration, as Python
// defines them.
#include "text/jinja_value.h"

#include <cmath>
#include <cstring>

#include "text/jinja_unicode.h"

namespace lema::jinja {

Obj Obj::string(std::string_view x, bool markup) {
  Obj o = of(Type::String);
  o.s = x.data();
  o.size = static_cast<uint32_t>(x.size());
  o.markup = markup;
  return o;
}

Obj Obj::undefined(Missing why, std::string_view name) {
  Obj o;
  o.missing = why;
  o.s = name.data();
  o.size = static_cast<uint32_t>(name.size());
  return o;
}

void Runtime::check_time() {
  if (steps_ > kMaxSteps) error("the template does more than {} evaluations", kMaxSteps);
  if (std::chrono::steady_clock::now() > deadline_)
    error("the template runs longer than {} s", kMaxTime.count());
  next_check_ = std::min(steps_ + 1024, kMaxSteps + 1);
}

void Runtime::charge(int64_t bytes) {
  heap_ += bytes;
  if (heap_ > kMaxHeap) error("the template's values take more than {} bytes", kMaxHeap);
}

void Runtime::check_size(int64_t bytes) const {
  if (bytes > kMaxOutput) error("a string of more than {} bytes", kMaxOutput);
}

Obj Runtime::string(std::string text, bool markup) {
  check_size(static_cast<int64_t>(text.size()));
  charge(static_cast<int64_t>(text.capacity() + sizeof(std::string)));
  scan(text.size());
  return Obj::string(strings_.emplace_back(std::move(text)), markup);
}

Obj Runtime::sequence(std::vector<Obj> items, Sequence::Kind kind) {
  charge(static_cast<int64_t>(items.capacity() * sizeof(Obj) + sizeof(Sequence)));
  Obj o = Obj::of(Type::Sequence);
  o.seq = &sequences_.emplace_back(Sequence{kind, std::move(items), 0});
  return o;
}

Obj Runtime::dict(Dict items, Type type) {
  charge(static_cast<int64_t>(items.items.capacity() * 2 * sizeof(Obj) + sizeof(Dict)));
  Obj o = Obj::of(type);
  o.dict = &dicts_.emplace_back(std::move(items));
  return o;
}

Obj Runtime::method(Obj self, std::string_view name) {
  charge(sizeof(BoundMethod));
  Obj o = Obj::of(Type::Method);
  o.method = &methods_.emplace_back(BoundMethod{self, name});
  return o;
}

Obj Runtime::cycler(std::vector<Obj> items, Type type) {
  charge(static_cast<int64_t>(items.size() * sizeof(Obj) + sizeof(CyclerState)));
  Obj o = Obj::of(type);
  o.cycler = &cyclers_.emplace_back(CyclerState{std::move(items), 0});
  return o;
}

Obj Runtime::from_json(const Value& value, int depth) {
  if (depth > kMaxDataDepth) error("the data is nested deeper than {}", kMaxDataDepth);
  switch (value.kind()) {
    case Value::Kind::Null:
      return Obj::none();
    case Value::Kind::Bool:
      return Obj::boolean(value.as_bool());
    case Value::Kind::Int:
      return Obj::integer(value.as_int());
    case Value::Kind::Float:
      return Obj::real(value.as_number());
    case Value::Kind::String:
      check_size(static_cast<int64_t>(value.as_string().size()));
      return Obj::string(value.as_string());
    case Value::Kind::Array: {
      std::vector<Obj> items;
      items.reserve(value.as_array().size());
      for (const Value& item : value.as_array()) items.push_back(from_json(item, depth + 1));
      return sequence(std::move(items));
    }
    case Value::Kind::Object:
      break;
  }
  Dict items;
  items.items.reserve(value.as_object().size());
  for (const auto& [key, item] : value.as_object())
    items.items.emplace_back(Obj::string(key), from_json(item, depth + 1));
  return dict(std::move(items));
}

std::string_view type_name(const Obj& x) {
  switch (x.type) {
    case Type::Undefined:
      return "Undefined";
    case Type::None:
      return "None";
    case Type::Bool:
      return "bool";
    case Type::Int:
      return "int";
    case Type::Float:
      return "float";
    case Type::String:
      return "str";
    case Type::Dict:
      return "dict";
    case Type::Namespace:
      return "Namespace";
    case Type::Loop:
      return "LoopContext";
    case Type::Cycler:
      return "Cycler";
    case Type::Joiner:
      return "Joiner";
    case Type::Builtin:
      return "function";
    case Type::Macro:
      return "Macro";
    case Type::Method:
      return "method";
    case Type::Sequence:
      break;
  }
  switch (x.seq->kind) {
    case Sequence::Kind::List:
      return "list";
    case Sequence::Kind::Tuple:
    case Sequence::Kind::Group:
      return "tuple";
    case Sequence::Kind::Range:
      return "range";
    case Sequence::Kind::Keys:
      return "dict_keys";
    case Sequence::Kind::Values:
      return "dict_values";
    case Sequence::Kind::Items:
      return "dict_items";
    case Sequence::Kind::Generator:
      return "generator";
  }
  return "object";
}

std::string explain_undefined(const Obj& x) {
  const std::string found = escaped(x.str());
  switch (x.missing) {
    case Missing::Name:
      return fmt::format("'{}' is undefined", found);
    case Missing::Attribute:
      return fmt::format("there is no attribute or item '{}'", found);
    case Missing::Unsafe:
      return fmt::format("access to attribute '{}' is refused", found);
    case Missing::InlineIf:
      return "an inline if without else was false";
    case Missing::Empty:
      return "the sequence was empty";
    case Missing::Parameter:
      return fmt::format("parameter '{}' was not provided", found);
  }
  return "the value is undefined";
}

bool truthy(const Obj& x) {
  switch (x.type) {
    case Type::Undefined:
    case Type::None:
      return false;
    case Type::Bool:
      return x.b;
    case Type::Int:
      return x.i != 0;
    case Type::Float:
      return x.f != 0;
    case Type::String:
      return x.size != 0;
    case Type::Dict:
      return !x.dict->items.empty();
    case Type::Sequence:
      return x.seq->kind == Sequence::Kind::Generator || !x.seq->items.empty();
    default:
      return true;
  }
}

namespace {

void check_depth(Runtime& rt, int depth) {
  rt.step();
  if (depth > kMaxDataDepth) rt.error("values nested deeper than {}", kMaxDataDepth);
}

bool equal_sequences(Runtime& rt, const Sequence& a, const Sequence& b, int depth) {
  using Kind = Sequence::Kind;
  if (&a == &b) return true;
  const bool comparable = (a.is_tuple() && b.is_tuple()) ||
                          (a.kind == b.kind && (a.kind == Kind::List || a.kind == Kind::Range));
  if (!comparable || a.items.size() != b.items.size()) return false;
  for (size_t i = 0; i < a.items.size(); ++i)
    if (!equal(rt, a.items[i], b.items[i], depth + 1)) return false;
  return true;
}

bool equal_dicts(Runtime& rt, const Dict& a, const Dict& b, int depth) {
  if (a.items.size() != b.items.size()) return false;
  for (const auto& [key, value] : a.items) {
    const Obj* other = find(rt, b, key);
    if (!other || !equal(rt, value, *other, depth + 1)) return false;
  }
  return true;
}

int compare_integer_double(int64_t i, double f) {
  if (std::isnan(f)) return 2;
  if (f >= 0x1p63) return -1;
  if (f < -0x1p63) return 1;
  const auto whole = static_cast<int64_t>(f);
  if (i != whole) return i < whole ? -1 : 1;
  const double rest = f - static_cast<double>(whole);
  return rest > 0 ? -1 : rest < 0 ? 1 : 0;
}

// -1, 0, 1; 2 when one is NaN. Integers are compared exactly.
int compare_numbers(const Obj& a, const Obj& b) {
  if (a.is_integer() && b.is_integer())
    return a.as_int() < b.as_int() ? -1 : a.as_int() > b.as_int();
  if (a.is_integer()) return compare_integer_double(a.as_int(), b.f);
  if (b.is_integer()) {
    const int c = compare_integer_double(b.as_int(), a.f);
    return c == 2 ? 2 : -c;
  }
  if (std::isnan(a.f) || std::isnan(b.f)) return 2;
  return a.f < b.f ? -1 : a.f > b.f;
}

}  // namespace

bool equal(Runtime& rt, const Obj& a, const Obj& b, int depth) {
  check_depth(rt, depth);
  if (a.is_number() && b.is_number()) return compare_numbers(a, b) == 0;
  if (a.type != b.type) return false;
  switch (a.type) {
    case Type::Undefined:
    case Type::None:
      return true;
    case Type::String:
      rt.scan(a.size);
      return a.str() == b.str();
    case Type::Sequence:
      return equal_sequences(rt, *a.seq, *b.seq, depth);
    case Type::Dict:
      return equal_dicts(rt, *a.dict, *b.dict, depth);
    case Type::Builtin:
      return a.builtin == b.builtin;
    default:
      return a.s == b.s;  // identity
  }
}

bool less(Runtime& rt, const Obj& a, const Obj& b, int depth) {
  check_depth(rt, depth);
  if (a.is_number() && b.is_number()) return compare_numbers(a, b) == -1;
  if (a.is(Type::String) && b.is(Type::String)) {
    rt.scan(std::min(a.size, b.size));
    return a.str() < b.str();  // UTF-8 orders as code points do
  }
  for (const Obj& x : {a, b})
    if (x.is(Type::Undefined)) rt.error("{}", explain_undefined(x));
  if (a.is(Type::Sequence) && b.is(Type::Sequence)) {
    const Sequence &x = *a.seq, &y = *b.seq;
    const bool lists = x.kind == Sequence::Kind::List && y.kind == Sequence::Kind::List;
    if (lists || (x.is_tuple() && y.is_tuple())) {
      for (size_t i = 0; i < std::min(x.items.size(), y.items.size()); ++i)
        if (!equal(rt, x.items[i], y.items[i], depth + 1))
          return less(rt, x.items[i], y.items[i], depth + 1);
      return x.items.size() < y.items.size();
    }
  }
  rt.error("'<' not supported between {} and {}", type_name(a), type_name(b));
}

bool is_iterable(const Obj& x) {
  return x.is(Type::Undefined) || x.is(Type::String) || x.is(Type::Sequence) || x.is(Type::Dict) ||
         x.is(Type::Loop);
}

int64_t length(const Obj& x) {
  switch (x.type) {
    case Type::Undefined:
      return 0;
    case Type::String:
      return code_points(x.str());
    case Type::Dict:
      return static_cast<int64_t>(x.dict->items.size());
    case Type::Sequence:
      return x.seq->kind == Sequence::Kind::Generator ? -1
                                                      : static_cast<int64_t>(x.seq->items.size());
    default:
      return -1;
  }
}

std::vector<Obj> iterate(Runtime& rt, const Obj& x) {
  std::vector<Obj> out;
  switch (x.type) {
    case Type::Undefined:
      break;
    case Type::String:
      for (size_t at = 0; at < x.size;) {
        rt.charge(sizeof(Obj));
        const size_t start = at;
        next_code_point(x.str(), at);
        out.push_back(Obj::string(x.str().substr(start, at - start), x.markup));
      }
      break;
    case Type::Dict:
      for (const auto& [key, value] : x.dict->items) out.push_back(key);
      break;
    case Type::Sequence:
      if (x.seq->kind == Sequence::Kind::Generator) {
        out.assign(x.seq->items.begin() + static_cast<int64_t>(x.seq->taken), x.seq->items.end());
        x.seq->taken = x.seq->items.size();
      } else {
        out = x.seq->items;
      }
      break;
    default:
      rt.error("a {} is not iterable", type_name(x));
  }
  rt.step(static_cast<int64_t>(out.size() / 16));
  return out;
}

bool is_hashable(Runtime& rt, const Obj& x, int depth) {
  check_depth(rt, depth);
  if (x.is(Type::Dict)) return false;
  if (!x.is(Type::Sequence)) return true;
  if (!x.seq->is_tuple()) return x.seq->kind != Sequence::Kind::List;
  for (const Obj& item : x.seq->items)
    if (!is_hashable(rt, item, depth + 1)) return false;
  return true;
}

const Obj* find(Runtime& rt, const Dict& dict, const Obj& key) {
  rt.step(static_cast<int64_t>(dict.items.size() / 16));
  if (key.is(Type::String)) {
    for (const auto& [name, value] : dict.items)
      if (name.is(Type::String) && name.str() == key.str()) return &value;
    return nullptr;
  }
  if (!is_hashable(rt, key)) rt.error("unhashable type: {}", type_name(key));
  for (const auto& [name, value] : dict.items)
    if (equal(rt, name, key)) return &value;
  return nullptr;
}

void put(Runtime& rt, Dict& dict, const Obj& key, const Obj& value) {
  if (const Obj* found = find(rt, dict, key)) {
    const_cast<Obj&>(*found) = value;  // the dict is ours and mutable here
    return;
  }
  rt.charge(2 * sizeof(Obj));
  dict.items.emplace_back(key, value);
}

}  // namespace lema::jinja
