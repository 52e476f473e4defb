// The tests behind `x is NAME`.
#include <unordered_map>

#include "text/jinja_eval.h"
#include "text/jinja_filters.h"
#include "text/jinja_unicode.h"

namespace lema::jinja {
namespace {

const Obj& one_argument(Interpreter& in, const Args& args) {
  if (args.positional.size() != 1 || !args.named.empty()) in.error("the test takes one argument");
  return args.positional[0];
}

template <typename Predicate>
constexpr Test unary(Predicate) {
  return [](Interpreter& in, const Obj& x, const Args& args) {
    if (!args.positional.empty() || !args.named.empty()) in.error("the test takes no argument");
    return Predicate{}(x);
  };
}

template <Op kOp>
bool comparison(Interpreter& in, const Obj& x, const Args& args) {
  return compare(in, kOp, x, one_argument(in, args));
}

bool is_divisible(Interpreter& in, const Obj& x, const Args& args) {
  const Obj rest = arithmetic(in, Op::Mod, x, one_argument(in, args));
  return equal(in, rest, Obj::integer(0));
}

template <int kRest>
bool has_rest(Interpreter& in, const Obj& x, const Args& args) {
  if (!args.positional.empty()) in.error("the test takes no argument");
  return equal(in, arithmetic(in, Op::Mod, x, Obj::integer(2)), Obj::integer(kRest));
}

bool is_same(Interpreter& in, const Obj& x, const Args& args) {
  const Obj& y = one_argument(in, args);
  if (x.type != y.type) return false;
  return x.is_number() || x.is(Type::None) || x.is(Type::String) ? equal(in, x, y) : x.s == y.s;
}

template <bool (*kWanted)(int32_t), bool (*kOther)(int32_t)>
bool has_case(Interpreter& in, const Obj& x, const Args&) {
  const std::string text = to_str(in, x);
  bool any = false;
  for (size_t at = 0; at < text.size();) {
    const int32_t c = next_code_point(text, at);
    if (kOther(c)) return false;
    any |= kWanted(c);
  }
  return any;
}

constexpr auto kDefined = [](const Obj& x) { return !x.is(Type::Undefined); };
constexpr auto kUndefined = [](const Obj& x) { return x.is(Type::Undefined); };
constexpr auto kNone = [](const Obj& x) { return x.is(Type::None); };
constexpr auto kString = [](const Obj& x) { return x.is(Type::String); };
constexpr auto kMapping = [](const Obj& x) { return x.is(Type::Dict); };
constexpr auto kIterable = [](const Obj& x) { return is_iterable(x); };
constexpr auto kSequence = [](const Obj& x) {
  if (x.is(Type::Sequence)) return x.seq->is_indexable();
  return x.is(Type::String) || x.is(Type::Dict) || x.is(Type::Undefined);
};
constexpr auto kNumber = [](const Obj& x) { return x.is_number(); };
constexpr auto kInteger = [](const Obj& x) { return x.is(Type::Int); };
constexpr auto kFloat = [](const Obj& x) { return x.is(Type::Float); };
constexpr auto kBoolean = [](const Obj& x) { return x.is(Type::Bool); };
constexpr auto kTrue = [](const Obj& x) { return x.is(Type::Bool) && x.b; };
constexpr auto kFalse = [](const Obj& x) { return x.is(Type::Bool) && !x.b; };
constexpr auto kEscaped = [](const Obj& x) { return x.is(Type::String) && x.markup; };
constexpr auto kCallable = [](const Obj& x) {
  return x.is(Type::Builtin) || x.is(Type::Macro) || x.is(Type::Method) || x.is(Type::Joiner) ||
         x.is(Type::Loop) || x.is(Type::Undefined);
};
constexpr auto kFilterName = [](const Obj& x) { return x.is(Type::String) && is_filter(x.str()); };
constexpr auto kTestName = [](const Obj& x) { return x.is(Type::String) && is_test(x.str()); };

bool is_in(Interpreter& in, const Obj& x, const Args& args) {
  return contains(in, one_argument(in, args), x);
}

}  // namespace

Test find_test(std::string_view name) {
  static const std::unordered_map<std::string_view, Test> kTests = {
      {"defined", unary(kDefined)},
      {"undefined", unary(kUndefined)},
      {"none", unary(kNone)},
      {"string", unary(kString)},
      {"mapping", unary(kMapping)},
      {"iterable", unary(kIterable)},
      {"sequence", unary(kSequence)},
      {"number", unary(kNumber)},
      {"integer", unary(kInteger)},
      {"float", unary(kFloat)},
      {"boolean", unary(kBoolean)},
      {"true", unary(kTrue)},
      {"false", unary(kFalse)},
      {"escaped", unary(kEscaped)},
      {"callable", unary(kCallable)},
      {"filter", unary(kFilterName)},
      {"test", unary(kTestName)},
      {"odd", has_rest<1>},
      {"even", has_rest<0>},
      {"divisibleby", is_divisible},
      {"sameas", is_same},
      {"in", is_in},
      {"lower", has_case<is_lower, is_upper>},
      {"upper", has_case<is_upper, is_lower>},
      {"eq", comparison<Op::Eq>},
      {"equalto", comparison<Op::Eq>},
      {"==", comparison<Op::Eq>},
      {"ne", comparison<Op::Ne>},
      {"!=", comparison<Op::Ne>},
      {"lt", comparison<Op::Lt>},
      {"lessthan", comparison<Op::Lt>},
      {"<", comparison<Op::Lt>},
      {"le", comparison<Op::Le>},
      {"<=", comparison<Op::Le>},
      {"gt", comparison<Op::Gt>},
      {"greaterthan", comparison<Op::Gt>},
      {">", comparison<Op::Gt>},
      {"ge", comparison<Op::Ge>},
      {">=", comparison<Op::Ge>},
  };
  const auto found = kTests.find(name);
  return found == kTests.end() ? nullptr : found->second;
}

}  // namespace lema::jinja
