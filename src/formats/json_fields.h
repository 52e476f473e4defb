// Typed access to the members of a parsed JSON object, with the place in every message: what the
// readers of config.json, adapter_config.json and generation_config.json share.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

#include "core/error.h"
#include "core/value.h"

namespace lema {

// Borrows the object. Errors: BadInput "SOURCE:LINE: key: found X, expected Y". A member that is
// null counts as absent unless a function says otherwise.
class JsonFields {
 public:
  JsonFields(const Value& object, std::string source)
      : object_(object), source_(std::move(source)) {
    if (!object.is_object())
      fail(ErrorCode::BadInput, "{}: found {}, expected an object", source_, name(object.kind()));
  }

  // The member, nullptr when absent or null.
  const Value* find(std::string_view key) const {
    const Value* value = object_.find(key);
    return value && value->is_null() ? nullptr : value;
  }
  // A present member, or a failure that names it.
  const Value& required(std::string_view key) const {
    if (const Value* value = find(key)) return *value;
    fail(ErrorCode::BadInput, "{}: no key \"{}\"", source_, escaped(key));
  }

  int64_t integer(std::string_view key, int64_t missing, int64_t min, int64_t max) const {
    const Value* value = find(key);
    return value ? to_integer(key, *value, min, max) : missing;
  }
  int64_t required_integer(std::string_view key, int64_t min, int64_t max) const {
    return to_integer(key, required(key), min, max);
  }
  double number(std::string_view key, double missing, double min, double max) const {
    const Value* value = find(key);
    return value ? to_number(key, *value, min, max) : missing;
  }
  double required_number(std::string_view key, double min, double max) const {
    return to_number(key, required(key), min, max);
  }
  bool boolean(std::string_view key, bool missing) const {
    const Value* value = find(key);
    if (!value) return missing;
    if (!value->is_bool()) wrong(key, *value, "boolean");
    return value->as_bool();
  }
  std::string text(std::string_view key, std::string_view missing) const {
    const Value* value = find(key);
    if (!value) return std::string(missing);
    if (!value->is_string()) wrong(key, *value, "string");
    return value->as_string();
  }

  const std::string& required_text(std::string_view key) const {
    const Value& value = required(key);
    if (!value.is_string()) wrong(key, value, "string");
    return value.as_string();
  }

  // "SOURCE:LINE: key", the front of a message about this member.
  std::string place(std::string_view key) const {
    const Value* value = object_.find(key);
    return value && value->line > 0 ? fmt::format("{}:{}: {}", source_, value->line, escaped(key))
                                    : fmt::format("{}: {}", source_, escaped(key));
  }
  const std::string& source() const { return source_; }

  [[noreturn]] void wrong(std::string_view key, const Value& found,
                          std::string_view expected) const {
    fail(ErrorCode::BadInput, "{}: found {}, expected {}", place(key), name(found.kind()),
         expected);
  }

 private:
  int64_t to_integer(std::string_view key, const Value& value, int64_t min, int64_t max) const {
    if (!value.is_int()) wrong(key, value, "integer");
    const int64_t x = value.as_int();
    if (x < min || x > max)
      fail(ErrorCode::BadInput, "{}: found {}, expected {} to {}", place(key), x, min, max);
    return x;
  }
  double to_number(std::string_view key, const Value& value, double min, double max) const {
    if (!value.is_number()) wrong(key, value, "number");
    const double x = value.as_number();
    if (!(x >= min && x <= max))
      fail(ErrorCode::BadInput, "{}: found {}, expected {} to {}", place(key), x, min, max);
    return x;
  }

  const Value& object_;
  std::string source_;
};

}  // namespace lema
