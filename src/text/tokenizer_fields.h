// Checked access to the members of tokenizer.json: every error names the place, e.g.
// "tokenizer.json: decoder.decoders[1]: content is missing". Used by the loaders of the tokenizer's
// stages.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "core/error.h"
#include "core/value.h"

namespace lema::fields {

inline constexpr int kMaxDepth = 8;  // of Sequence within Sequence

inline const Value& member(const Value& object, std::string_view key, const std::string& place) {
  if (!object.is_object())
    fail(ErrorCode::BadInput, "{}: found {}, expected object", place, name(object.kind()));
  const Value* value = object.find(key);
  if (value == nullptr) fail(ErrorCode::BadInput, "{}: {} is missing", place, key);
  return *value;
}

inline void expect(const Value& value, Value::Kind kind, const std::string& place) {
  if (value.kind() != kind)
    fail(ErrorCode::BadInput, "{}: found {}, expected {}", place, name(value.kind()), name(kind));
}

inline const std::string& text(const Value& object, std::string_view key,
                               const std::string& place) {
  const Value& value = member(object, key, place);
  expect(value, Value::Kind::String, fmt::format("{}.{}", place, key));
  return value.as_string();
}

inline const Value::Array& array(const Value& object, std::string_view key,
                                 const std::string& place) {
  const Value& value = member(object, key, place);
  expect(value, Value::Kind::Array, fmt::format("{}.{}", place, key));
  return value.as_array();
}

inline int64_t integer(const Value& object, std::string_view key, const std::string& place) {
  const Value& value = member(object, key, place);
  expect(value, Value::Kind::Int, fmt::format("{}.{}", place, key));
  return value.as_int();
}

// A missing or null member gives `otherwise`.
inline bool flag(const Value& object, std::string_view key, bool otherwise,
                 const std::string& place) {
  const Value* value = object.find(key);
  if (value == nullptr || value->is_null()) return otherwise;
  expect(*value, Value::Kind::Bool, fmt::format("{}.{}", place, key));
  return value->as_bool();
}

// The string of {"String": s} (regex = false) or {"Regex": s}.
struct Pattern {
  std::string_view text;
  bool regex;
};
inline Pattern pattern(const Value& object, const std::string& place) {
  const Value& value = member(object, "pattern", place);
  const std::string inner = place + ".pattern";
  if (!value.is_object()) expect(value, Value::Kind::Object, inner);
  const bool regex = value.find("Regex") != nullptr;
  const std::string& string = text(value, regex ? "Regex" : "String", inner);
  if (string.empty()) fail(ErrorCode::BadInput, "{}: the pattern is empty", inner);
  return {string, regex};
}

[[noreturn]] inline void unsupported(std::string_view what, std::string_view type,
                                     std::string_view known, const std::string& place) {
  fail(ErrorCode::BadInput, "{}: {} \"{}\" is not supported; supported are {}", place, what,
       escaped(type), known);
}

// Calls visit(stage, place) for the stage `value`, or, when its type is Sequence, for each stage of
// its list `list_key` in order; null gives no call.
template <typename Visit>
void each_stage(const Value& value, std::string_view list_key, const std::string& place,
                const Visit& visit, int depth = 0) {
  if (value.is_null()) return;
  if (text(value, "type", place) != "Sequence") return visit(value, place);
  if (depth == kMaxDepth)
    fail(ErrorCode::BadInput, "{}: Sequence is nested more than {} deep", place, kMaxDepth);
  const Value::Array& stages = array(value, list_key, place);
  for (size_t i = 0; i < stages.size(); ++i)
    each_stage(stages[i], list_key, fmt::format("{}.{}[{}]", place, list_key, i), visit, depth + 1);
}

}  // namespace lema::fields
