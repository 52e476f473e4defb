// Arithmetic, comparison and membership with Python's results and type errors. Integers
// are 64-bit: what Python would grow beyond that is an error here.
#include "text/jinja_ops.h"

#include <algorithm>
#include <cmath>

#include "text/jinja_unicode.h"

namespace lema::jinja {

Bound::Bound(Runtime& rt, std::string_view what, const Args& args,
             std::initializer_list<std::string_view> names, size_t required)
    : rt_(rt), what_(what), values_(names.size()), given_(names.size()) {
  if (args.positional.size() > names.size())
    rt.error("{} takes at most {} arguments", what, names.size());
  for (size_t i = 0; i < args.positional.size(); ++i) {
    values_[i] = args.positional[i];
    given_[i] = true;
  }
  for (const auto& [name, value] : args.named) {
    const auto found = std::find(names.begin(), names.end(), name);
    if (found == names.end()) rt.error("{} has no parameter '{}'", what, escaped(name));
    const auto i = static_cast<size_t>(found - names.begin());
    if (given_[i]) rt.error("{} got parameter '{}' twice", what, name);
    values_[i] = value;
    given_[i] = true;
  }
  for (size_t i = 0; i < required; ++i)
    if (!given_[i]) rt.error("{} needs the argument '{}'", what, *(names.begin() + i));
}

int64_t Bound::integer(size_t i, int64_t fallback) const {
  if (!given_[i] || values_[i].is(Type::None)) return fallback;
  if (!values_[i].is_integer())
    rt_.error("{}: found {}, expected an integer", what_, type_name(values_[i]));
  return values_[i].as_int();
}

std::string_view Bound::text(size_t i, std::string_view fallback) const {
  if (!given_[i] || values_[i].is(Type::None)) return fallback;
  if (!values_[i].is(Type::String))
    rt_.error("{}: found {}, expected a string", what_, type_name(values_[i]));
  return values_[i].str();
}

namespace {

void refuse_undefined(Runtime& rt, const Obj& a, const Obj& b) {
  for (const Obj& x : {a, b})
    if (x.is(Type::Undefined)) rt.error("{}", explain_undefined(x));
}

Obj add_strings(Runtime& rt, const Obj& a, const Obj& b) {
  rt.check_size(int64_t{a.size} + b.size);
  std::string out;
  const bool markup = a.markup || b.markup;
  for (const Obj& x : {a, b}) {
    if (markup && !x.markup) {
      out += escape_html(x.str());
    } else {
      out += x.str();
    }
  }
  return rt.string(std::move(out), markup);
}

Obj add_sequences(Runtime& rt, const Obj& a, const Obj& b) {
  const size_t count = a.seq->items.size() + b.seq->items.size();
  rt.charge(static_cast<int64_t>(count * sizeof(Obj)));
  std::vector<Obj> items = a.seq->items;
  items.insert(items.end(), b.seq->items.begin(), b.seq->items.end());
  return rt.sequence(std::move(items),
                     a.seq->is_tuple() ? Sequence::Kind::Tuple : Sequence::Kind::List);
}

Obj repeat(Runtime& rt, const Obj& x, int64_t count) {
  count = std::max<int64_t>(count, 0);
  const bool is_text = x.is(Type::String);
  const auto one = static_cast<int64_t>(is_text ? x.size : x.seq->items.size() * sizeof(Obj));
  if (one && count > kMaxOutput / one) rt.error("a repeat of more than {} bytes", kMaxOutput);
  if (is_text) {
    std::string out;
    out.reserve(static_cast<size_t>(one * count));
    for (int64_t i = 0; one && i < count; ++i) out += x.str();
    return rt.string(std::move(out), x.markup);
  }
  rt.charge(one * count);
  std::vector<Obj> items;
  for (int64_t i = 0; one && i < count; ++i)
    items.insert(items.end(), x.seq->items.begin(), x.seq->items.end());
  return rt.sequence(std::move(items),
                     x.seq->is_tuple() ? Sequence::Kind::Tuple : Sequence::Kind::List);
}

bool is_list_or_tuple(const Obj& x) {
  return x.is(Type::Sequence) && (x.seq->kind == Sequence::Kind::List || x.seq->is_tuple());
}

int64_t floor_div(int64_t a, int64_t b) {
  const int64_t q = a / b;
  return q - (a % b != 0 && (a < 0) != (b < 0));
}

int64_t floor_mod(int64_t a, int64_t b) {
  const int64_t rest = b == -1 ? 0 : a % b;
  return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

int64_t power(Runtime& rt, int64_t base, int64_t exponent) {
  int64_t result = 1;
  if (base == 0 || base == 1 || base == -1)
    return exponent == 0 ? 1 : base == -1 && exponent % 2 == 0 ? 1 : base;
  for (int64_t i = 0; i < exponent; ++i)
    if (__builtin_mul_overflow(result, base, &result)) rt.error("an integer beyond 64 bits");
  return result;
}

Obj integer_arithmetic(Runtime& rt, Op op, int64_t a, int64_t b) {
  int64_t out = 0;
  bool overflow = false;
  const bool divides = op == Op::Div || op == Op::FloorDiv || op == Op::Mod;
  if (divides && b == 0) rt.error("division by zero");
  switch (op) {
    case Op::Add:
      overflow = __builtin_add_overflow(a, b, &out);
      break;
    case Op::Sub:
      overflow = __builtin_sub_overflow(a, b, &out);
      break;
    case Op::Mul:
      overflow = __builtin_mul_overflow(a, b, &out);
      break;
    case Op::Div:
      return Obj::real(static_cast<double>(a) / static_cast<double>(b));
    case Op::FloorDiv:
      overflow = b == -1 && a == INT64_MIN;
      if (!overflow) out = floor_div(a, b);
      break;
    case Op::Mod:
      out = floor_mod(a, b);
      break;
    default:
      if (b >= 0) return Obj::integer(power(rt, a, b));
      if (a == 0) rt.error("division by zero");
      return Obj::real(std::pow(static_cast<double>(a), static_cast<double>(b)));
  }
  if (overflow) rt.error("an integer beyond 64 bits");
  return Obj::integer(out);
}

Obj float_arithmetic(Runtime& rt, Op op, double a, double b) {
  const bool divides = op == Op::Div || op == Op::FloorDiv || op == Op::Mod;
  if (divides && b == 0) rt.error("division by zero");
  double rest = 0;
  switch (op) {
    case Op::Add:
      return Obj::real(a + b);
    case Op::Sub:
      return Obj::real(a - b);
    case Op::Mul:
      return Obj::real(a * b);
    case Op::Div:
      return Obj::real(a / b);
    case Op::Mod:
    case Op::FloorDiv:
      rest = std::fmod(a, b);
      if (rest != 0 && (b < 0) != (rest < 0)) rest += b;
      if (op == Op::FloorDiv) return Obj::real(std::round((a - rest) / b));
      return Obj::real(rest == 0 ? std::copysign(0.0, b) : rest);
    default:
      if (a == 0 && b < 0) rt.error("division by zero");
      if (a < 0 && b != std::floor(b)) rt.error("a complex number");
      return Obj::real(std::pow(a, b));
  }
}

constexpr std::string_view kOpNames[] = {"+", "-", "*", "/", "//", "%", "**"};

}  // namespace

Obj arithmetic(Runtime& rt, Op op, const Obj& a, const Obj& b) {
  if (a.is_integer() && b.is_integer()) return integer_arithmetic(rt, op, a.as_int(), b.as_int());
  if (a.is_number() && b.is_number()) return float_arithmetic(rt, op, a.as_double(), b.as_double());
  if (op == Op::Mod && a.is(Type::String))
    return rt.string(format_percent(rt, a.str(), b), a.markup);
  refuse_undefined(rt, a, b);
  if (op == Op::Add) {
    if (a.is(Type::String) && b.is(Type::String)) return add_strings(rt, a, b);
    if (is_list_or_tuple(a) && is_list_or_tuple(b) && a.seq->is_tuple() == b.seq->is_tuple())
      return add_sequences(rt, a, b);
  }
  if (op == Op::Mul) {
    const auto repeats = [](const Obj& x) { return x.is(Type::String) || is_list_or_tuple(x); };
    if (repeats(a) && b.is_integer()) return repeat(rt, a, b.as_int());
    if (repeats(b) && a.is_integer()) return repeat(rt, b, a.as_int());
  }
  rt.error("'{}' not supported between {} and {}", kOpNames[static_cast<size_t>(op)], type_name(a),
           type_name(b));
}

Obj negative(Runtime& rt, const Obj& x) {
  if (x.is(Type::Float)) return Obj::real(-x.f);
  if (x.is_integer()) return integer_arithmetic(rt, Op::Sub, 0, x.as_int());
  refuse_undefined(rt, x, x);
  rt.error("no sign for a {}", type_name(x));
}

bool compare(Runtime& rt, Op op, const Obj& a, const Obj& b) {
  switch (op) {
    case Op::Eq:
      return equal(rt, a, b);
    case Op::Ne:
      return !equal(rt, a, b);
    case Op::Lt:
      return less(rt, a, b);
    case Op::Gt:
      return less(rt, b, a);
    case Op::Le:
      return less(rt, a, b) || equal(rt, a, b);
    case Op::Ge:
      return less(rt, b, a) || equal(rt, a, b);
    case Op::In:
      return contains(rt, b, a);
    default:
      return !contains(rt, b, a);
  }
}

bool contains(Runtime& rt, const Obj& container, const Obj& item) {
  switch (container.type) {
    case Type::Undefined:
      return false;
    case Type::String:
      if (!item.is(Type::String)) rt.error("'in <string>' needs a string, not {}", type_name(item));
      rt.scan(container.size);
      return find_first(container.str(), item.str()) != std::string_view::npos;
    case Type::Dict:
      return find(rt, *container.dict, item) != nullptr;
    case Type::Sequence:
      break;
    default:
      rt.error("'in' is not supported by a {}", type_name(container));
  }
  Sequence& seq = *container.seq;
  const bool is_generator = seq.kind == Sequence::Kind::Generator;
  for (size_t i = is_generator ? seq.taken : 0; i < seq.items.size(); ++i) {
    if (is_generator) seq.taken = i + 1;
    if (equal(rt, seq.items[i], item)) return true;
  }
  return false;
}

Dict make_dict(Runtime& rt, const Args& args) {
  Dict out;
  if (args.positional.size() > 1) rt.error("dict takes at most 1 argument");
  if (!args.positional.empty()) {
    const Obj& from = args.positional[0];
    if (from.is(Type::Dict)) {
      rt.charge(static_cast<int64_t>(from.dict->items.size() * 2 * sizeof(Obj)));
      out = *from.dict;
    } else {
      for (const Obj& item : iterate(rt, from)) {
        const std::vector<Obj> both = iterate(rt, item);
        if (both.size() != 2) rt.error("dict needs pairs, found {} elements", both.size());
        put(rt, out, both[0], both[1]);
      }
    }
  }
  for (const auto& [name, value] : args.named) put(rt, out, Obj::string(name), value);
  return out;
}

Obj make_range(Runtime& rt, const Args& args) {
  const std::vector<Obj>& given = args.positional;
  if (given.empty() || given.size() > 3 || !args.named.empty())
    rt.error("range takes 1 to 3 arguments");
  for (const Obj& x : given)
    if (!x.is_integer()) rt.error("range: found {}, expected an integer", type_name(x));
  const int64_t start = given.size() > 1 ? given[0].as_int() : 0;
  const int64_t stop = given[given.size() > 1 ? 1 : 0].as_int();
  const int64_t step = given.size() > 2 ? given[2].as_int() : 1;
  if (step == 0) rt.error("range: the step is zero");
  std::vector<Obj> items;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (static_cast<int64_t>(items.size()) >= kMaxRange)
      rt.error("a range of more than {} elements", kMaxRange);
    items.push_back(Obj::integer(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  rt.step(static_cast<int64_t>(items.size() / 16));
  return rt.sequence(std::move(items), Sequence::Kind::Range);
}

}  // namespace lema::jinja
