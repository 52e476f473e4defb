// The evaluator's statements: output, scopes, loops, macros' definitions and the blocks that catch
// output.
#include "text/jinja_eval.h"

#include <algorithm>

namespace lema::jinja {

Interpreter::Interpreter(const Template& tree, const Value& context, bool tracks_spans)
    : tree_(tree), tracks_spans_(tracks_spans) {
  scope_ = open_scope(nullptr);
  if (!context.is_object()) error("the context is {}, expected an object", name(context.kind()));
  for (size_t id = 0; id < tree.names.size(); ++id)
    if (const Value* value = context.find(tree.names[id]))
      assign(*scope_, static_cast<int>(id), from_json(*value));
  scope_ = open_scope(scope_);
}

std::string Interpreter::run() {
  run_body(tree_.body);
  return std::move(root_output_);
}

// --- scopes ---

Scope* Interpreter::open_scope(Scope* parent) {
  Scope* scope = nullptr;
  if (free_scopes_.empty()) {
    charge(sizeof(Scope));
    scope = &scopes_.emplace_back();
  } else {
    scope = free_scopes_.back();
    free_scopes_.pop_back();
  }
  scope->parent = parent;
  return scope;
}

void Interpreter::close_scope(Scope* scope) {
  if (scope->is_captured) return;
  scope->vars.clear();
  free_scopes_.push_back(scope);
}

Obj Interpreter::capture(const Stmt& macro) {
  for (Scope* s = scope_; s && !s->is_captured; s = s->parent) s->is_captured = true;
  charge(sizeof(MacroValue));
  Obj o = Obj::of(Type::Macro);
  o.macro = &macros_.emplace_back(MacroValue{&macro, scope_});
  return o;
}

void Interpreter::assign(Scope& scope, int id, const Obj& value) {
  for (auto& [key, old] : scope.vars) {
    if (key != id) continue;
    old = value;
    return;
  }
  charge(sizeof(value));
  scope.vars.emplace_back(id, value);
}

void Interpreter::assign(const Expr& target, const Obj& value) {
  step();
  if (target.kind == Expr::Kind::Name) return assign(*scope_, target.id, value);
  if (target.kind == Expr::Kind::NsRef) return assign_attribute(target, value);
  line = target.line;
  const std::vector<Obj> parts = iterate(*this, value);
  if (parts.size() != target.args.size())
    error("cannot unpack {} values into {} names", parts.size(), target.args.size());
  for (size_t i = 0; i < parts.size(); ++i) assign(*target.args[i], parts[i]);
}

void Interpreter::assign_attribute(const Expr& target, const Obj& value) {
  line = target.line;
  const Obj space = lookup(target.id);
  if (!space.is(Type::Namespace))
    error("cannot set attribute '{}' of a {}", target.text, type_name(space));
  if (target.text.starts_with("_")) error("a namespace has no attributes that begin with '_'");
  put(*this, *space.dict, Obj::string(target.text), value);
}

// --- statements ---

void Interpreter::write(const Obj& x) { append_str(*this, *output_, x); }

Interpreter::Flow Interpreter::run_body(const Body& body) {
  if (++depth_ > kMaxEvalDepth) error("evaluation nested deeper than {}", kMaxEvalDepth);
  Flow flow = Flow::Normal;
  for (const Stmt& s : body) {
    flow = run_statement(s);
    if (flow != Flow::Normal) break;
  }
  --depth_;
  return flow;
}

Interpreter::Flow Interpreter::run_statement(const Stmt& s) {
  step();
  line = s.line;
  switch (s.kind) {
    case Stmt::Kind::Text:
      write(Obj::string(s.text));
      break;
    case Stmt::Kind::Output:
      write(eval(*s.exprs[0]));
      break;
    case Stmt::Kind::If:
      return run_if(s);
    case Stmt::Kind::For:
      return run_for(s);
    case Stmt::Kind::Set:
      assign(*s.targets[0], eval(*s.exprs[0]));
      break;
    case Stmt::Kind::SetBlock:
      return run_set_block(s);
    case Stmt::Kind::With:
      return run_with(s);
    case Stmt::Kind::Macro:
      assign(*scope_, s.id, capture(s));
      break;
    case Stmt::Kind::CallBlock:
      run_call_block(s);
      break;
    case Stmt::Kind::FilterBlock:
      return run_filter_block(s);
    case Stmt::Kind::Generation:
      run_generation(s);
      break;
    case Stmt::Kind::Break:
      return Flow::Break;
    case Stmt::Kind::Continue:
      return Flow::Continue;
  }
  return Flow::Normal;
}

Interpreter::Flow Interpreter::run_if(const Stmt& s) {
  for (size_t i = 0; i < s.exprs.size(); ++i)
    if (truthy(eval(*s.exprs[i]))) return run_body(s.bodies[i]);
  return s.bodies.size() > s.exprs.size() ? run_body(s.bodies.back()) : Flow::Normal;
}

Interpreter::Flow Interpreter::run_for(const Stmt& s) {
  const Obj source = eval(*s.exprs[0]);
  charge(sizeof(LoopState));
  LoopState& loop = loops_.emplace_back(LoopState{.def = &s, .outer = scope_});
  loop.source = iterate(*this, source);
  charge(static_cast<int64_t>(loop.source.size() * sizeof(Obj)));
  Obj loop_object = Obj::of(Type::Loop);
  loop_object.loop = &loop;
  while (advance(loop)) {
    Scope* outer = std::exchange(scope_, open_scope(scope_));
    assign(*scope_, kLoopId, loop_object);
    assign(*s.targets[0], loop.current);
    const Flow flow = run_body(s.bodies[0]);
    close_scope(std::exchange(scope_, outer));
    if (flow == Flow::Break) break;
  }
  // A loop object that outlives its loop cannot ask the condition: the scope around it may be gone.
  if (s.exprs[1]) loop.next_source = loop.source.size();
  if (loop.index >= 0 || s.bodies[1].empty()) return Flow::Normal;
  Scope* outer = std::exchange(scope_, open_scope(scope_));
  const Flow flow = run_body(s.bodies[1]);
  close_scope(std::exchange(scope_, outer));
  return flow;
}

Interpreter::Flow Interpreter::run_set_block(const Stmt& s) {
  Flow flow = Flow::Normal;
  Scope* outer = std::exchange(scope_, open_scope(scope_));
  Obj value = string(buffered([&] { flow = run_body(s.bodies[0]); }));
  close_scope(std::exchange(scope_, outer));
  if (flow != Flow::Normal) return flow;
  if (s.exprs[0]) {
    const Obj before = std::exchange(piped_, value);
    value = eval(*s.exprs[0]);
    piped_ = before;
  }
  assign(*s.targets[0], value);
  return flow;
}

Interpreter::Flow Interpreter::run_with(const Stmt& s) {
  std::vector<Obj> values;
  for (const ExprPtr& e : s.exprs) values.push_back(eval(*e));
  Scope* outer = std::exchange(scope_, open_scope(scope_));
  for (size_t i = 0; i < values.size(); ++i) assign(*s.targets[i], values[i]);
  const Flow flow = run_body(s.bodies[0]);
  close_scope(std::exchange(scope_, outer));
  return flow;
}

Interpreter::Flow Interpreter::run_filter_block(const Stmt& s) {
  Flow flow = Flow::Normal;
  Scope* outer = std::exchange(scope_, open_scope(scope_));
  const Obj text = string(buffered([&] { flow = run_body(s.bodies[0]); }));
  close_scope(std::exchange(scope_, outer));
  if (flow != Flow::Normal) return flow;
  const Obj before = std::exchange(piped_, text);
  write(eval(*s.exprs[0]));
  piped_ = before;
  return flow;
}

// A block inside another adds nothing. Inside a macro or a set block, where its place in the output
// is not known, it is an error when spans are wanted.
void Interpreter::run_generation(const Stmt& s) {
  if (tracks_spans_ && output_ != &root_output_)
    error(
        "a generation block inside a macro, set, call or filter block has no place in the output");
  const auto start = static_cast<int64_t>(output_->size());
  const bool was_inside = std::exchange(in_generation_, true);
  Scope* outer = std::exchange(scope_, open_scope(scope_));
  run_body(s.bodies[0]);
  close_scope(std::exchange(scope_, outer));
  in_generation_ = was_inside;
  if (output_ == &root_output_ && !was_inside)
    spans_.emplace_back(start, static_cast<int64_t>(output_->size()));
}

void Interpreter::run_call_block(const Stmt& s) {
  const Expr& e = *s.exprs[0];
  const Obj callee = eval(*e.args[0]);
  Args args = eval_arguments(e);
  args.named.emplace_back("caller", capture(s.macro[0]));
  write(call(callee, args));
}

// --- loops ---

bool Interpreter::fetch(LoopState& loop, Obj& out) {
  while (loop.next_source < loop.source.size()) {
    step();
    out = loop.source[loop.next_source++];
    if (!loop.def->exprs[1]) return true;
    Scope* inner = std::exchange(scope_, open_scope(loop.outer));
    assign(*loop.def->targets[0], out);
    const bool keeps = truthy(eval(*loop.def->exprs[1]));
    close_scope(std::exchange(scope_, inner));
    if (keeps) return true;
  }
  return false;
}

bool Interpreter::peek(LoopState& loop) {
  if (!loop.ahead.empty()) return true;
  Obj next;
  if (!fetch(loop, next)) return false;
  loop.ahead.push_back(next);
  return true;
}

bool Interpreter::advance(LoopState& loop) {
  if (!peek(loop)) return false;
  loop.previous = loop.current;
  loop.current = loop.ahead.front();
  loop.ahead.pop_front();
  ++loop.index;
  return true;
}

Obj Interpreter::loop_attribute(LoopState& loop, std::string_view name) {
  const auto remaining = [&] {
    for (Obj next; fetch(loop, next);) loop.ahead.push_back(next);
    return static_cast<int64_t>(loop.ahead.size());
  };
  if (name == "index") return Obj::integer(loop.index + 1);
  if (name == "index0") return Obj::integer(loop.index);
  if (name == "first") return Obj::boolean(loop.index == 0);
  if (name == "last") return Obj::boolean(!peek(loop));
  if (name == "length") return Obj::integer(loop.index + 1 + remaining());
  if (name == "revindex") return Obj::integer(remaining() + 1);
  if (name == "revindex0") return Obj::integer(remaining());
  if (name == "previtem")
    return loop.index == 0 ? Obj::undefined(Missing::Attribute, name) : loop.previous;
  if (name == "nextitem")
    return peek(loop) ? loop.ahead.front() : Obj::undefined(Missing::Attribute, name);
  if (name == "depth") return Obj::integer(1);
  if (name == "depth0") return Obj::integer(0);
  if (name == "cycle" || name == "changed") {
    Obj self = Obj::of(Type::Loop);
    self.loop = &loop;
    return method(self, name);
  }
  return Obj::undefined(Missing::Attribute, name);
}

Obj Interpreter::call_loop_method(LoopState& loop, std::string_view name, const Args& args) {
  const std::vector<Obj>& values = args.positional;
  if (name == "cycle") {
    if (values.empty()) error("loop.cycle needs values");
    return values[static_cast<size_t>(loop.index) % values.size()];
  }
  bool same = loop.has_changed && loop.last_changed.size() == values.size();
  for (size_t i = 0; same && i < values.size(); ++i)
    same = equal(*this, loop.last_changed[i], values[i]);
  loop.has_changed = true;
  loop.last_changed = values;
  return Obj::boolean(!same);
}

}  // namespace lema::jinja
