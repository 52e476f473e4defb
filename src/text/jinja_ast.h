// The parsed form of a chat template: made once by the parser, then only read, by any number of
// renders.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja_value.h"

namespace lema::jinja {

enum class Op : uint8_t {
  Add,
  Sub,
  Mul,
  Div,
  FloorDiv,
  Mod,
  Pow,
  Eq,
  Ne,
  Lt,
  Le,
  Gt,
  Ge,
  In,
  NotIn
};

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct Expr {
  enum class Kind : uint8_t {
    Const,    // value (a string lives in text)
    Name,     // id, text
    List,     // args
    Tuple,    // args
    Dict,     // args: key, value, key, value, ...
    Attr,     // args[0].text
    Item,     // args[0][args[1]]
    Slice,    // args[0][args[1]:args[2]:args[3]], the last three may be null
    Call,     // args[0](rest)
    Filter,   // args[0] | text(rest)
    Test,     // args[0] is text(rest)
    Not,      // args[0]
    Neg,      // args[0]
    Pos,      // args[0]
    Arith,    // args[0] ops[0] args[1] ops[1] ..., from the left
    Compare,  // the same, chained as in Python
    And,      // args
    Or,       // args
    Concat,   // args
    Cond,     // args[0] if args[1] else args[2], which may be null
    Piped,    // what a filter block or a block set feeds to its filters
    NsRef,    // target only: id.text
  };
  Kind kind{};
  int line = 0;
  int height = 1;  // of the tree below, bounded by kMaxParseDepth
  int id = -1;     // Name, NsRef: index into Template::names
  std::string text;
  Obj value;
  std::vector<ExprPtr> args;
  std::vector<Op> ops;
  // Call, Filter, Test: keyword arguments, *args and **kwargs.
  std::vector<std::pair<std::string, ExprPtr>> named;
  ExprPtr star, star_star;
};

struct Stmt;
using Body = std::vector<Stmt>;

struct Stmt {
  enum class Kind : uint8_t {
    Text,         // text
    Output,       // exprs[0]
    If,           // exprs: tests; bodies: one per test, then else
    For,          // targets[0] in exprs[0], kept if exprs[1] (may be null); bodies: loop, else
    Set,          // targets[0] = exprs[0]
    SetBlock,     // targets[0] = bodies[0] through exprs[0] (filters over Piped, may be null)
    With,         // targets = exprs; bodies[0]
    Macro,        // id; targets: parameters; exprs: defaults of the last ones; bodies[0]
    CallBlock,    // exprs[0] is the call; macro: the caller
    FilterBlock,  // exprs[0] over bodies[0]
    Generation,   // bodies[0]
    Break,
    Continue,
  };
  Kind kind{};
  int line = 0;
  int id = -1;
  std::string text{};
  std::vector<ExprPtr> targets{}, exprs{};
  std::vector<Body> bodies{};
  std::vector<Stmt> macro{};  // CallBlock: one Macro
  // Macro: whether the body reads these names, which decides if surplus arguments are an error.
  bool uses_varargs = false, uses_kwargs = false, uses_caller = false;
};

struct Template {
  Body body;
  std::vector<std::string> names;  // every variable name of the template, by id
  bool has_generation = false;
};

// Ids that the parser gives to these names in every template.
enum NameId : int { kLoopId, kCallerId, kVarargsId, kKwargsId, kFirstFreeId };

}  // namespace lema::jinja
