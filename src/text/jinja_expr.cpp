// The evaluator's expressions and calls.
#include <algorithm>
#include <array>
#include <cmath>
#include <ctime>

#include "text/jinja_eval.h"
#include "text/jinja_filters.h"

namespace lema::jinja {

Obj Interpreter::lookup(int id) {
  for (const Scope* s = scope_; s; s = s->parent)
    for (const auto& [key, value] : s->vars)
      if (key == id) return value;
  static constexpr std::pair<std::string_view, Builtin> kBuiltins[] = {
      {"range", Builtin::Range},
      {"dict", Builtin::Dict},
      {"namespace", Builtin::Namespace},
      {"cycler", Builtin::Cycler},
      {"joiner", Builtin::Joiner},
      {"raise_exception", Builtin::RaiseException},
      {"strftime_now", Builtin::StrftimeNow}};
  const std::string& name = tree_.names[static_cast<size_t>(id)];
  for (const auto& [text, builtin] : kBuiltins) {
    if (text != name) continue;
    Obj o = Obj::of(Type::Builtin);
    o.builtin = builtin;
    return o;
  }
  return Obj::undefined(Missing::Name, name);
}

Obj Interpreter::eval(const Expr& e) {
  using Kind = Expr::Kind;
  if (++depth_ > kMaxEvalDepth) error("evaluation nested deeper than {}", kMaxEvalDepth);
  step();
  line = e.line;
  Obj out;
  switch (e.kind) {
    case Kind::Const:
      out = e.value;
      break;
    case Kind::Name:
      out = lookup(e.id);
      break;
    case Kind::List:
      out = eval_args_list(e, Sequence::Kind::List);
      break;
    case Kind::Tuple:
      out = eval_args_list(e, Sequence::Kind::Tuple);
      break;
    case Kind::Dict:
      out = eval_dict(e);
      break;
    case Kind::Attr:
      out = attribute(eval(*e.args[0]), e.text);
      break;
    case Kind::Item: {
      const Obj base = eval(*e.args[0]), key = eval(*e.args[1]);
      line = e.line;
      out = base.is(Type::Loop) && key.is(Type::String) ? attribute(base, key.str())
                                                        : get_item(*this, base, key);
      break;
    }
    case Kind::Slice:
      out = eval_slice(e);
      break;
    case Kind::Call:
      out = eval_call(e);
      break;
    case Kind::Filter: {
      const Obj value = eval(*e.args[0]);
      const Args args = eval_arguments(e);
      line = e.line;
      out = apply_filter(e.text, value, args);
      break;
    }
    case Kind::Test: {
      const Obj value = eval(*e.args[0]);
      const Args args = eval_arguments(e);
      line = e.line;
      out = Obj::boolean(apply_test(e.text, value, args));
      break;
    }
    case Kind::Not:
      out = Obj::boolean(!truthy(eval(*e.args[0])));
      break;
    case Kind::Neg:
      out = negative(*this, eval(*e.args[0]));
      break;
    case Kind::Pos:
      out = arithmetic(*this, Op::Add, Obj::integer(0), eval(*e.args[0]));
      break;
    case Kind::Arith:
      out = eval_arithmetic(e);
      break;
    case Kind::Compare:
      out = eval_compare(e);
      break;
    case Kind::And:
      out = eval_logic(e, false);
      break;
    case Kind::Or:
      out = eval_logic(e, true);
      break;
    case Kind::Concat:
      out = eval_concat(e);
      break;
    case Kind::Cond:
      out = eval_conditional(e);
      break;
    case Kind::Piped:
      out = piped_;
      break;
    case Kind::NsRef:
      break;
  }
  --depth_;
  return out;
}

Obj Interpreter::eval_args_list(const Expr& e, Sequence::Kind kind) {
  std::vector<Obj> items;
  items.reserve(e.args.size());
  for (const ExprPtr& arg : e.args) items.push_back(eval(*arg));
  return sequence(std::move(items), kind);
}

Obj Interpreter::eval_dict(const Expr& e) {
  Dict out;
  for (size_t i = 0; i < e.args.size(); i += 2) {
    const Obj key = eval(*e.args[i]), value = eval(*e.args[i + 1]);
    line = e.line;
    put(*this, out, key, value);
  }
  return dict(std::move(out));
}

Obj Interpreter::eval_slice(const Expr& e) {
  const Obj base = eval(*e.args[0]);
  std::array<Obj, 3> parts;
  std::array<const Obj*, 3> given{};
  for (size_t i = 0; i < 3; ++i) {
    if (!e.args[i + 1]) continue;
    parts[i] = eval(*e.args[i + 1]);
    given[i] = &parts[i];
  }
  line = e.line;
  return get_slice(*this, base, given[0], given[1], given[2]);
}

Obj Interpreter::eval_arithmetic(const Expr& e) {
  Obj left = eval(*e.args[0]);
  for (size_t i = 0; i < e.ops.size(); ++i) {
    const Obj right = eval(*e.args[i + 1]);
    line = e.args[i + 1]->line;
    left = arithmetic(*this, e.ops[i], left, right);
  }
  return left;
}

Obj Interpreter::eval_compare(const Expr& e) {
  Obj left = eval(*e.args[0]);
  for (size_t i = 0; i < e.ops.size(); ++i) {
    const Obj right = eval(*e.args[i + 1]);
    line = e.line;
    if (!compare(*this, e.ops[i], left, right)) return Obj::boolean(false);
    left = right;
  }
  return Obj::boolean(true);
}

// `and` stops at the first false operand, `or` at the first true one; the value is the operand
// itself.
Obj Interpreter::eval_logic(const Expr& e, bool stop_at) {
  Obj value;
  for (const ExprPtr& arg : e.args) {
    value = eval(*arg);
    if (truthy(value) == stop_at) break;
  }
  return value;
}

Obj Interpreter::eval_concat(const Expr& e) {
  std::string out;
  for (const ExprPtr& arg : e.args) append_str(*this, out, eval(*arg));
  return string(std::move(out));
}

Obj Interpreter::eval_conditional(const Expr& e) {
  if (truthy(eval(*e.args[1]))) return eval(*e.args[0]);
  return e.args[2] ? eval(*e.args[2]) : Obj::undefined(Missing::InlineIf);
}

Obj Interpreter::attribute(const Obj& x, std::string_view name) {
  return x.is(Type::Loop) ? loop_attribute(*x.loop, name) : get_attribute(*this, x, name);
}

Obj Interpreter::apply_filter(std::string_view name, const Obj& value, const Args& args) {
  if (++depth_ > kMaxEvalDepth) error("evaluation nested deeper than {}", kMaxEvalDepth);
  step();
  const Filter filter = find_filter(name);
  if (!filter) error("there is no filter '{}'", escaped(name));
  const Obj out = filter(*this, value, args);
  --depth_;
  return out;
}

bool Interpreter::apply_test(std::string_view name, const Obj& value, const Args& args) {
  step();
  const Test test = find_test(name);
  if (!test) error("there is no test '{}'", escaped(name));
  return test(*this, value, args);
}

// --- calls ---

Args Interpreter::eval_arguments(const Expr& e) {
  Args args;
  args.positional.reserve(e.args.size() - 1);
  for (size_t i = 1; i < e.args.size(); ++i) args.positional.push_back(eval(*e.args[i]));
  for (const auto& [name, value] : e.named) args.named.emplace_back(name, eval(*value));
  if (e.star) {
    const std::vector<Obj> more = iterate(*this, eval(*e.star));
    charge(static_cast<int64_t>(2 * more.size() * sizeof(Obj)));
    args.positional.insert(args.positional.end(), more.begin(), more.end());
  }
  if (e.star_star) {
    const Obj more = eval(*e.star_star);
    if (!more.is(Type::Dict)) error("the argument after ** must be a dict");
    for (const auto& [key, value] : more.dict->items) {
      if (!key.is(Type::String)) error("keywords must be strings");
      charge(sizeof(args.named[0]));
      step(static_cast<int64_t>(1 + args.named.size() / 16));
      for (const auto& [name, other] : args.named)
        if (name == key.str()) error("the keyword argument '{}' is repeated", escaped(name));
      args.named.emplace_back(key.str(), value);
    }
  }
  return args;
}

Obj Interpreter::eval_call(const Expr& e) {
  const Expr& target = *e.args[0];
  if (target.kind == Expr::Kind::Attr) {  // a method call needs no method object
    const Obj self = eval(*target.args[0]);
    if (has_method(self, target.text)) {
      const Args args = eval_arguments(e);
      line = e.line;
      return call_method(*this, self, target.text, args);
    }
    line = e.line;
    const Obj callee = attribute(self, target.text);
    return call(callee, eval_arguments(e));
  }
  const Obj callee = eval(target);
  const Args args = eval_arguments(e);
  line = e.line;
  return call(callee, args);
}

Obj Interpreter::call(const Obj& callee, const Args& args) {
  switch (callee.type) {
    case Type::Builtin:
      return call_builtin(callee.builtin, args);
    case Type::Macro:
      return call_macro(*callee.macro, args);
    case Type::Method: {
      const BoundMethod& m = *callee.method;
      if (m.self.is(Type::Loop)) return call_loop_method(*m.self.loop, m.name, args);
      return call_method(*this, m.self, m.name, args);
    }
    case Type::Joiner:
      return callee.cycler->at++ == 0 ? Obj::string("") : callee.cycler->items[0];
    case Type::Undefined:
      error("{}", explain_undefined(callee));
    default:
      error("a {} cannot be called", type_name(callee));
  }
}

namespace {

std::string format_now(Runtime& rt, std::string_view format) {
  if (format.size() > 1024) rt.error("strftime_now: a format of more than 1024 bytes");
  if (format.empty()) return "";
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  std::string out(format.size() * 64 + 64, '\0');
  out.resize(std::strftime(out.data(), out.size(), std::string(format).c_str(), &local));
  return out;
}

}  // namespace

Obj Interpreter::call_builtin(Builtin which, const Args& args) {
  switch (which) {
    case Builtin::Range:
      return make_range(*this, args);
    case Builtin::Dict:
      return dict(make_dict(*this, args));
    case Builtin::Namespace: {
      Obj space = dict(make_dict(*this, args), Type::Namespace);
      for (const auto& [key, value] : space.dict->items)
        if (key.is(Type::String) && key.str().starts_with("_"))
          error("a namespace has no attributes that begin with '_'");
      return space;
    }
    case Builtin::Cycler:
      if (args.positional.empty() || !args.named.empty()) error("cycler needs values");
      return cycler(args.positional, Type::Cycler);
    case Builtin::Joiner: {
      const Bound b(*this, "joiner", args, {"sep"});
      return cycler({b.or_else(0, Obj::string(", "))}, Type::Joiner);
    }
    case Builtin::RaiseException: {
      const Bound b(*this, "raise_exception", args, {"message"}, 1);
      error("{}", escaped(to_str(*this, b[0])));
    }
    case Builtin::StrftimeNow:
      break;
  }
  const Bound b(*this, "strftime_now", args, {"format"}, 1);
  return string(format_now(*this, b.text(0, "")));
}

Obj Interpreter::call_macro(const MacroValue& macro, const Args& args) {
  if (++macro_depth_ > kMaxMacroDepth) error("macros nested deeper than {}", kMaxMacroDepth);
  Scope* caller = std::exchange(scope_, open_scope(macro.scope));
  bind_macro(macro, args, *scope_);
  const Obj piped = piped_;
  std::string text = buffered([&] { run_body(macro.def->bodies[0]); });
  piped_ = piped;
  close_scope(std::exchange(scope_, caller));
  --macro_depth_;
  return string(std::move(text));
}

void Interpreter::bind_macro(const MacroValue& macro, const Args& args, Scope& scope) {
  const Stmt& def = *macro.def;
  const size_t count = def.targets.size(), required = count - def.exprs.size();
  std::vector<bool> used(args.named.size());
  for (size_t i = 0; i < count; ++i) {
    const Expr& parameter = *def.targets[i];
    step(static_cast<int64_t>(1 + args.named.size() / 16));
    const auto named = std::find_if(args.named.begin(), args.named.end(),
                                    [&](const auto& a) { return a.first == parameter.text; });
    Obj value = Obj::undefined(Missing::Parameter, parameter.text);
    if (named != args.named.end()) {
      if (i < args.positional.size())
        error("macro {} got parameter '{}' twice", def.text, parameter.text);
      used[static_cast<size_t>(named - args.named.begin())] = true;
      value = named->second;
    } else if (i < args.positional.size()) {
      value = args.positional[i];
    } else if (i >= required) {
      value = eval(*def.exprs[i - required]);
    }
    assign(scope, parameter.id, value);
  }
  if (def.uses_caller) assign(scope, kCallerId, Obj::undefined(Missing::Name, "caller"));
  Dict surplus;
  for (size_t i = 0; i < args.named.size(); ++i) {
    const auto& [name, value] = args.named[i];
    if (used[i]) continue;
    if (name == "caller" && def.uses_caller) {
      assign(scope, kCallerId, value);
    } else if (def.uses_kwargs) {
      put(*this, surplus, Obj::string(name), value);
    } else {
      error("macro {} has no parameter '{}'", def.text, escaped(name));
    }
  }
  if (def.uses_kwargs) assign(scope, kKwargsId, dict(std::move(surplus)));
  if (args.positional.size() > count && !def.uses_varargs)
    error("macro {} takes at most {} arguments", def.text, count);
  if (!def.uses_varargs) return;
  const auto begin =
      args.positional.begin() + static_cast<int64_t>(std::min(count, args.positional.size()));
  assign(scope, kVarargsId, sequence({begin, args.positional.end()}, Sequence::Kind::Tuple));
}

}  // namespace lema::jinja
