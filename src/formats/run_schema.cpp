// What the declared options look like from outside: the JSON schema editors read, and the help text
// of `lema train`.
#include <cmath>

#include "core/error.h"
#include "formats/json.h"
#include "formats/run_config.h"
#include "formats/run_options.h"

namespace lema {
namespace {

Value number(double x) { return x == std::floor(x) ? Value(static_cast<int64_t>(x)) : Value(x); }

void add_bounds(Value& schema, const Option& o) {
  schema.set(o.above_min ? "exclusiveMinimum" : "minimum", number(o.min));
  if (std::isfinite(o.max)) schema.set(o.below_max ? "exclusiveMaximum" : "maximum", number(o.max));
}

Value of_type(const char* type) { return Value::Object{{"type", type}}; }

Value either(Value first, Value second) {
  return Value::Object{{"anyOf", Value::Array{std::move(first), std::move(second)}}};
}

Value or_auto(Value schema) { return either(std::move(schema), Value::Object{{"const", "auto"}}); }

Value form(const Option& o, const std::string&) {
  Value schema = of_type("string");
  if (!o.choices.empty()) {
    Value::Array choices, numbered;
    for (const std::string_view choice : o.choices)
      if (choice.ends_with(":N"))
        numbered.push_back(
            Value::Object{{"pattern", fmt::format("^{}[0-9]{{1,3}}$",
                                                  choice.substr(0, choice.size() - 1))}});
      else
        choices.push_back(choice);
    if (numbered.empty()) {
      schema.set("enum", choices);
    } else {
      numbered.insert(numbered.begin(), Value::Object{{"enum", choices}});
      schema.set("anyOf", numbered);
    }
  }
  if (o.required) schema.set("minLength", 1);
  return schema;
}
Value form(const Option&, const Value&) { return Value::Object{}; }
Value form(const Option& o, const int64_t&) {
  Value schema = of_type("integer");
  add_bounds(schema, o);
  return schema;
}
Value form(const Option& o, const double&) {
  Value schema = of_type("number");
  add_bounds(schema, o);
  return schema;
}
Value form(const Option&, const bool&) { return of_type("boolean"); }
Value form(const Option&, const std::optional<bool>&) { return or_auto(of_type("boolean")); }
Value form(const Option& o, const std::vector<std::string>&) {
  Value item = of_type("string");
  item.set("minLength", 1);
  if (o.numbers) item = either(std::move(item), of_type("integer"));
  Value list = of_type("array");
  list.set("items", item);
  if (!o.may_be_empty) list.set("minItems", 1);
  return either(o.may_be_empty ? of_type("string") : item, list);
}
Value form(const Option& o, AutoInt<const int64_t> field) { return or_auto(form(o, field.value)); }
Value form(const Option& o, AutoBytes<const int64_t> field) {
  Value text = of_type("string");
  text.set("pattern", "^(auto|[0-9]+(\\.[0-9]+)?( *([KMGT]i?)?B)?)$");
  return either(form(o, field.value), text);
}
Value form(const Option& o, NumberPair<const double> field) {
  Value list = of_type("array");
  list.set("items", form(o, field.first));
  list.set("minItems", 2);
  list.set("maxItems", 2);
  return list;
}

template <typename T>
Value form(const Option& o, const OrderedMap<T>&) {
  Value object = of_type("object");
  object.set("additionalProperties", form(o, T()));
  return object;
}

Value closed_object() {
  Value schema = of_type("object");
  schema.set("additionalProperties", false);
  schema.set("properties", Value::Object{});
  return schema;
}

// The member, made by `missing` when absent.
Value& member(Value& object, std::string_view key, Value (*missing)()) {
  if (!object.find(key)) object.set(key, missing());
  for (auto& [k, v] : object.as_object())
    if (k == key) return v;
  fail(ErrorCode::Internal, "member {} vanished", key);
}

void require(Value& schema, std::string_view key) {
  member(schema, "required", [] { return Value(Value::Array{}); }).as_array().push_back(key);
}

}  // namespace

Value run_config_schema() {
  const RunConfig defaults;
  const Value values = to_value(defaults);
  Value schema = Value::Object{{"$schema", "https://json-schema.org/draft/2020-12/schema"},
                               {"title", "Run config of lema train"}};
  const Value object = closed_object();
  for (const auto& [key, value] : object.as_object()) schema.set(key, value);
  const auto no_value = [] { return Value(Value::Object{}); };
  visit_options(defaults, [&](const Option& option, const auto& field) {
    const size_t dot = option.key.find('.');
    const std::string_view section = dot == option.key.npos ? "" : option.key.substr(0, dot);
    const std::string_view leaf = option.key.substr(dot + 1);  // npos + 1 is 0
    Value* parent = &schema;
    const Value* default_value = values.find(leaf);
    if (!section.empty()) {
      parent = &member(member(schema, "properties", no_value), section, closed_object);
      default_value = values.find(section)->find(leaf);
    }
    Value property = form(option, field);
    property.set("description", option.help);
    if (option.required) {
      require(*parent, leaf);
    } else {
      property.set("default", *default_value);
    }
    member(*parent, "properties", no_value).set(leaf, property);
  });
  require(schema, "data");
  return schema;
}

std::string run_config_help() {
  const RunConfig defaults;
  const Value values = to_value(defaults);
  std::string help;
  visit_options(defaults, [&](const Option& option, const auto&) {
    const size_t dot = option.key.find('.');
    const Value* parent = dot == option.key.npos ? &values : values.find(option.key.substr(0, dot));
    const Value& value = *parent->find(option.key.substr(dot + 1));
    help += fmt::format("  {:<24} {}", option.key, option.help);
    if (!option.choices.empty()) help += fmt::format(" ({})", fmt::join(option.choices, "|"));
    help += option.required ? " [required]\n" : fmt::format(" [{}]\n", dump_json(value));
  });
  return help;
}

}  // namespace lema
