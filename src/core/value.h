// Value: a parsed JSON or TOML document. formats produces it; tokenizer, template and config code
// read it, so that none of them needs a JSON library.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace lema {

class Value {
 public:
  enum class Kind { Null, Bool, Int, Float, String, Array, Object };
  using Array = std::vector<Value>;
  using Object = std::vector<std::pair<std::string, Value>>;  // file order; keys are unique

  Value() = default;
  // By assignment: in libstdc++ 12 a variant whose construction as a copy throws is destroyed as
  // if it had been made.
  Value(const Value& other) : line(other.line) { data_ = other.data_; }
  Value& operator=(const Value&) = default;
  Value(Value&&) = default;
  Value& operator=(Value&&) = default;
  Value(std::nullptr_t) {}                              // NOLINT: literals convert
  Value(bool x) : data_(x) {}                           // NOLINT
  Value(int x) : data_(int64_t{x}) {}                   // NOLINT
  Value(int64_t x) : data_(x) {}                        // NOLINT
  Value(double x) : data_(x) {}                         // NOLINT
  Value(const char* x) : data_(std::string(x)) {}       // NOLINT
  Value(std::string x) : data_(std::move(x)) {}         // NOLINT
  Value(std::string_view x) : data_(std::string(x)) {}  // NOLINT
  Value(Array x) : data_(std::move(x)) {}               // NOLINT
  Value(Object x) : data_(std::move(x)) {}              // NOLINT

  Kind kind() const { return static_cast<Kind>(data_.index()); }
  bool is_null() const { return kind() == Kind::Null; }
  bool is_bool() const { return kind() == Kind::Bool; }
  bool is_int() const { return kind() == Kind::Int; }
  bool is_number() const { return kind() == Kind::Int || kind() == Kind::Float; }
  bool is_string() const { return kind() == Kind::String; }
  bool is_array() const { return kind() == Kind::Array; }
  bool is_object() const { return kind() == Kind::Object; }

  // Accessors throw BadInput naming the kind found and the kind wanted.
  bool as_bool() const;
  int64_t as_int() const;
  double as_number() const;  // Int or Float
  const std::string& as_string() const;
  const Array& as_array() const;
  const Object& as_object() const;
  Array& as_array();
  Object& as_object();

  // Member of an object, or nullptr when absent (or when this is not an object). Linear in the
  // members.
  const Value* find(std::string_view key) const;
  // Sets or replaces a member; a null Value becomes an object first.
  void set(std::string_view key, Value value);
  // Sets all of the members in their order, in time that is linear in them and in the object's own.
  void merge(Object members);

  bool operator==(const Value& other) const { return data_ == other.data_; }

  // Line of the source file this value began on, 1-based; 0 when it was not parsed.
  int line = 0;

 private:
  std::variant<std::monostate, bool, int64_t, double, std::string, Array, Object> data_;
};

// "null", "boolean", "integer", "number", "string", "array", "object".
std::string_view name(Value::Kind kind);

}  // namespace lema
