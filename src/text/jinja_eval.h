// One render of a parsed template: walks the tree, keeps the scopes, writes the output. Made by
// ChatTemplate for each call and thrown away with its heap, so renders share nothing but the tree.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja_ast.h"
#include "text/jinja_ops.h"

namespace lema::jinja {

// Variables of one block; names not found here are looked up in the parent, as Python closures do.
struct Scope {
  Scope* parent = nullptr;
  std::vector<std::pair<int, Obj>> vars;  // by name id
  bool is_captured = false;               // a macro keeps it: it may outlive its block
};

struct MacroValue {
  const Stmt* def;
  Scope* scope;  // where it was defined
};

// A running for loop. Elements pass the loop's condition when they are asked for, so that the
// condition sees what the body has changed, unless the body looks ahead (loop.last, loop.length).
struct LoopState {
  const Stmt* def;
  Scope* outer;
  std::vector<Obj> source{};
  size_t next_source = 0;
  std::deque<Obj> ahead{};
  int64_t index = -1;
  Obj previous{}, current{};
  std::vector<Obj> last_changed{};
  bool has_changed = false;
};

class Interpreter : public Runtime {
 public:
  // `context`: an object whose members are the template's variables.
  Interpreter(const Template& tree, const Value& context, bool tracks_spans);

  // The output; once.
  std::string run();
  // Byte spans of the output that {% generation %} blocks wrote, in order.
  const std::vector<std::pair<int64_t, int64_t>>& spans() const { return spans_; }

  // For the filters that apply other filters, tests or attributes to each element.
  Obj apply_filter(std::string_view name, const Obj& value, const Args& args);
  bool apply_test(std::string_view name, const Obj& value, const Args& args);
  Obj attribute(const Obj& x, std::string_view name);

 private:
  enum class Flow { Normal, Break, Continue };

  Flow run_body(const Body& body);
  Flow run_statement(const Stmt& s);
  Flow run_if(const Stmt& s);
  Flow run_for(const Stmt& s);
  Flow run_set_block(const Stmt& s);
  Flow run_with(const Stmt& s);
  Flow run_filter_block(const Stmt& s);
  void run_generation(const Stmt& s);
  void run_call_block(const Stmt& s);
  void write(const Obj& x);

  Obj eval(const Expr& e);
  Obj eval_args_list(const Expr& e, Sequence::Kind kind);
  Obj eval_dict(const Expr& e);
  Obj eval_slice(const Expr& e);
  Obj eval_arithmetic(const Expr& e);
  Obj eval_compare(const Expr& e);
  Obj eval_logic(const Expr& e, bool stop_at);
  Obj eval_concat(const Expr& e);
  Obj eval_conditional(const Expr& e);
  Obj eval_call(const Expr& e);
  Args eval_arguments(const Expr& e);

  Obj call(const Obj& callee, const Args& args);
  Obj call_builtin(Builtin which, const Args& args);
  Obj call_macro(const MacroValue& macro, const Args& args);
  void bind_macro(const MacroValue& macro, const Args& args, Scope& scope);
  Obj call_loop_method(LoopState& loop, std::string_view name, const Args& args);

  Obj lookup(int id);
  void assign(Scope& scope, int id, const Obj& value);
  void assign(const Expr& target, const Obj& value);
  void assign_attribute(const Expr& target, const Obj& value);
  Scope* open_scope(Scope* parent);
  void close_scope(Scope* scope);
  Obj capture(const Stmt& macro);

  bool fetch(LoopState& loop, Obj& out);
  bool peek(LoopState& loop);
  bool advance(LoopState& loop);
  Obj loop_attribute(LoopState& loop, std::string_view name);

  // Runs `body` with the output caught in a string.
  template <typename Run>
  std::string buffered(Run body) {
    std::string buffer;
    std::string* outer = std::exchange(output_, &buffer);
    body();
    output_ = outer;
    return buffer;
  }

  const Template& tree_;
  bool tracks_spans_;
  std::string root_output_;
  std::string* output_ = &root_output_;
  std::vector<std::pair<int64_t, int64_t>> spans_;
  bool in_generation_ = false;
  int depth_ = 0, macro_depth_ = 0;
  Obj piped_;
  Scope* scope_ = nullptr;
  std::deque<Scope> scopes_;
  std::vector<Scope*> free_scopes_;
  std::deque<MacroValue> macros_;
  std::deque<LoopState> loops_;
};

}  // namespace lema::jinja
