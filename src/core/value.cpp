// Checked access to parsed documents.
#include "core/value.h"

#include <unordered_map>

#include "core/error.h"

namespace lema {

std::string_view name(Value::Kind kind) {
  switch (kind) {
    case Value::Kind::Null:
      return "null";
    case Value::Kind::Bool:
      return "boolean";
    case Value::Kind::Int:
      return "integer";
    case Value::Kind::Float:
      return "number";
    case Value::Kind::String:
      return "string";
    case Value::Kind::Array:
      return "array";
    case Value::Kind::Object:
      return "object";
  }
  return "?";
}

namespace {
[[noreturn]] void wrong_kind(Value::Kind found, std::string_view wanted) {
  fail(ErrorCode::BadInput, "found {}, expected {}", name(found), wanted);
}
}  // namespace

bool Value::as_bool() const {
  if (const bool* x = std::get_if<bool>(&data_)) return *x;
  wrong_kind(kind(), "boolean");
}

int64_t Value::as_int() const {
  if (const int64_t* x = std::get_if<int64_t>(&data_)) return *x;
  wrong_kind(kind(), "integer");
}

double Value::as_number() const {
  if (const int64_t* x = std::get_if<int64_t>(&data_)) return static_cast<double>(*x);
  if (const double* x = std::get_if<double>(&data_)) return *x;
  wrong_kind(kind(), "number");
}

const std::string& Value::as_string() const {
  if (const auto* x = std::get_if<std::string>(&data_)) return *x;
  wrong_kind(kind(), "string");
}

const Value::Array& Value::as_array() const {
  if (const auto* x = std::get_if<Array>(&data_)) return *x;
  wrong_kind(kind(), "array");
}

const Value::Object& Value::as_object() const {
  if (const auto* x = std::get_if<Object>(&data_)) return *x;
  wrong_kind(kind(), "object");
}

Value::Array& Value::as_array() { return const_cast<Array&>(std::as_const(*this).as_array()); }
Value::Object& Value::as_object() { return const_cast<Object&>(std::as_const(*this).as_object()); }

const Value* Value::find(std::string_view key) const {
  const auto* object = std::get_if<Object>(&data_);
  if (!object) return nullptr;
  for (const auto& [k, v] : *object)
    if (k == key) return &v;
  return nullptr;
}

void Value::set(std::string_view key, Value value) {
  if (is_null()) data_ = Object{};
  for (auto& [k, v] : as_object()) {
    if (k == key) {
      v = std::move(value);
      return;
    }
  }
  as_object().emplace_back(std::string(key), std::move(value));
}

void Value::merge(Object members) {
  if (is_null()) data_ = Object{};
  Object& own = as_object();
  own.reserve(own.size() + members.size());  // the keys stay where they are
  std::unordered_map<std::string_view, size_t> places;
  for (size_t i = 0; i < own.size(); ++i) places.emplace(own[i].first, i);
  for (auto& [key, value] : members) {
    if (const auto place = places.find(key); place != places.end()) {
      own[place->second].second = std::move(value);
      continue;
    }
    own.emplace_back(std::move(key), std::move(value));
    places.emplace(own.back().first, own.size() - 1);
  }
}

}  // namespace lema
