// The values of a running chat template and the heap they live in. Semantics are Python's, since
// jinja2 templates are written against Python objects. The evaluator, the filters and the methods
// all work on Obj; nothing else does.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/value.h"

namespace lema::jinja {

// What a template may cost. A template is untrusted code: every limit ends in BadInput with the
// template's line.
inline constexpr int64_t kMaxSource = int64_t{1} << 20;  // bytes of template text
inline constexpr int kMaxParseDepth = 128;               // nested statements, nested expressions
inline constexpr size_t kMaxKeywords = 1000;             // keyword arguments written in one call
inline constexpr int kMaxMacroDepth = 64;                // nested macro calls
inline constexpr int kMaxEvalDepth = 2000;       // nested evaluator calls, bounds the C++ stack
inline constexpr int kMaxDataDepth = 200;        // nested lists and dicts when compared or printed
inline constexpr int64_t kMaxSteps = 5'000'000;  // node evaluations and element visits
inline constexpr int64_t kMaxRange = 100'000;  // elements of range(), the value of jinja2's sandbox
inline constexpr int64_t kMaxOutput = int64_t{64} << 20;  // bytes of output, and of any one string
inline constexpr int64_t kMaxHeap = int64_t{256} << 20;  // bytes of all values made while rendering
inline constexpr std::chrono::seconds kMaxTime{5};

enum class Type : uint8_t {
  Undefined,
  None,
  Bool,
  Int,
  Float,
  String,
  Sequence,
  Dict,
  Namespace,
  Loop,
  Cycler,
  Joiner,
  Builtin,
  Macro,
  Method
};

// Why a value is undefined; the name it was looked up by is in the Obj.
enum class Missing : uint8_t { Name, Attribute, Unsafe, InlineIf, Empty, Parameter };

enum class Builtin : uint8_t {
  Range,
  Dict,
  Namespace,
  Cycler,
  Joiner,
  RaiseException,
  StrftimeNow
};

struct Sequence;
struct Dict;
struct LoopState;
struct MacroValue;
struct BoundMethod;
struct CyclerState;

// A reference of 16 bytes; what it points to belongs to the heap of the render, to the template or
// to its context.
struct Obj {
  Type type = Type::Undefined;
  Missing missing = Missing::Name;  // Undefined
  bool markup =
      false;          // String: an HTML-safe string (markupsafe.Markup): `+` escapes the other side
  Builtin builtin{};  // Builtin
  uint32_t size = 0;  // bytes of a String, or of an Undefined's name
  union {
    bool b;
    int64_t i = 0;
    double f;
    const char* s;
    Sequence* seq;
    Dict* dict;  // Dict and Namespace
    LoopState* loop;
    MacroValue* macro;
    BoundMethod* method;
    CyclerState* cycler;  // Cycler and Joiner
  };

  static Obj none() { return of(Type::None); }
  static Obj boolean(bool x) {
    Obj o = of(Type::Bool);
    o.b = x;
    return o;
  }
  static Obj integer(int64_t x) {
    Obj o = of(Type::Int);
    o.i = x;
    return o;
  }
  static Obj real(double x) {
    Obj o = of(Type::Float);
    o.f = x;
    return o;
  }
  // A view: the bytes must outlive the render.
  static Obj string(std::string_view x, bool markup = false);
  static Obj undefined(Missing why, std::string_view name = {});
  static Obj of(Type t) {
    Obj o;
    o.type = t;
    return o;
  }

  bool is(Type t) const { return type == t; }
  bool is_integer() const { return type == Type::Int || type == Type::Bool; }
  bool is_number() const { return is_integer() || type == Type::Float; }
  std::string_view str() const { return {s, size}; }
  // Bool or Int as an integer; any number as a double.
  int64_t as_int() const { return type == Type::Bool ? int64_t{b} : i; }
  double as_double() const { return type == Type::Float ? f : static_cast<double>(as_int()); }
};

// Python's list and tuple, and what else is iterated in order. Views and generators are made
// eagerly.
struct Sequence {
  enum class Kind : uint8_t { List, Tuple, Group, Range, Keys, Values, Items, Generator };
  Kind kind = Kind::List;
  std::vector<Obj> items;
  size_t taken = 0;  // Generator: elements already consumed

  bool is_tuple() const { return kind == Kind::Tuple || kind == Kind::Group; }
  bool is_indexable() const { return kind <= Kind::Range; }
};

struct Dict {
  std::vector<std::pair<Obj, Obj>> items;  // insertion order, keys unique
};

struct BoundMethod {
  Obj self;
  std::string_view name;
};

struct CyclerState {
  std::vector<Obj> items;
  size_t at = 0;
};

// The heap and the meter of one render. Everything made is freed with it, so values need no
// ownership of their own.
class Runtime {
 public:
  Runtime() : deadline_(std::chrono::steady_clock::now() + kMaxTime) {}
  Runtime(const Runtime&) = delete;

  // BadInput "chat template: line L: ...", L being the line last evaluated.
  template <typename... Args>
  [[noreturn]] void error(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorCode::BadInput, "chat template: line {}: {}", line,
         fmt::format(format, std::forward<Args>(args)...));
  }

  // Counts `n` evaluations or element visits.
  void step(int64_t n = 1) {
    steps_ += n;
    if (steps_ >= next_check_) check_time();
  }
  // Counts a pass over `bytes` of text.
  void scan(size_t bytes) { step(static_cast<int64_t>(bytes / 256)); }
  // Counts memory before it is taken.
  void charge(int64_t bytes);
  // Fails unless a string of this size is allowed.
  void check_size(int64_t bytes) const;

  Obj string(std::string text, bool markup = false);
  Obj sequence(std::vector<Obj> items, Sequence::Kind kind = Sequence::Kind::List);
  Obj pair(Obj a, Obj b) { return sequence({a, b}, Sequence::Kind::Tuple); }
  Obj dict(Dict items, Type type = Type::Dict);
  Obj method(Obj self, std::string_view name);
  Obj cycler(std::vector<Obj> items, Type type);
  // A JSON value as template data; its strings are viewed, not copied.
  Obj from_json(const Value& value, int depth = 0);

  int line = 0;

 private:
  void check_time();

  std::chrono::steady_clock::time_point deadline_;
  int64_t steps_ = 0, next_check_ = 1024, heap_ = 0;
  std::deque<std::string> strings_;
  std::deque<Sequence> sequences_;
  std::deque<Dict> dicts_;
  std::deque<BoundMethod> methods_;
  std::deque<CyclerState> cyclers_;
};

// Python's name of the value's type, for messages.
std::string_view type_name(const Obj& x);
// Why `x` is undefined, as a sentence.
std::string explain_undefined(const Obj& x);

bool truthy(const Obj& x);
// Python's ==; elements are counted as steps.
bool equal(Runtime& rt, const Obj& a, const Obj& b, int depth = 0);
// Python's < over numbers, strings, lists and tuples; a type error otherwise.
bool less(Runtime& rt, const Obj& a, const Obj& b, int depth = 0);
// str(x) and repr(x) appended to `out`.
void append_str(Runtime& rt, std::string& out, const Obj& x);
void append_repr(Runtime& rt, std::string& out, const Obj& x, int depth = 0);
std::string to_str(Runtime& rt, const Obj& x);
// repr of a float: the shortest digits that read back, exponent form below 1e-4 and from 1e16.
std::string format_double(double x);

// Elements in iteration order: code points of a string, keys of a dict; a generator is consumed.
// Undefined has none. A type error for what Python cannot iterate.
std::vector<Obj> iterate(Runtime& rt, const Obj& x);
bool is_iterable(const Obj& x);
// len(x), or -1 when x has none.
int64_t length(const Obj& x);
// Member by key or nullptr; a type error for an unhashable key.
const Obj* find(Runtime& rt, const Dict& dict, const Obj& key);
void put(Runtime& rt, Dict& dict, const Obj& key, const Obj& value);
bool is_hashable(Runtime& rt, const Obj& x, int depth = 0);

struct JsonStyle {
  bool ensure_ascii = false, sort_keys = false, is_indented = false;
  std::string indent, item_separator = ", ", key_separator = ": ";
};
// json.dumps(x); a type error for what JSON cannot hold.
std::string to_json(Runtime& rt, const Obj& x, const JsonStyle& style);

}  // namespace lema::jinja
