// Run configs: a JSON or TOML document, then --set assignments, become a checked RunConfig; and
// back to a document. `lema train` and `lema plan` start here. The options themselves are declared
// in run_options.h.
#include "formats/run_config.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <type_traits>

#include "core/error.h"
#include "core/file.h"
#include "core/units.h"
#include "formats/json.h"
#include "formats/run_options.h"
#include "formats/toml.h"

namespace lema {
namespace {

constexpr int64_t kMaxConfigBytes = int64_t{16} << 20;

std::string_view section_of(std::string_view key) {
  const size_t dot = key.find('.');
  return dot == key.npos ? std::string_view() : key.substr(0, dot);
}

std::string_view leaf_of(std::string_view key) { return key.substr(key.rfind('.') + 1); }

std::vector<std::string_view> known_keys() {
  std::vector<std::string_view> keys;
  visit_options(static_cast<const RunConfig&>(RunConfig{}),
                [&](const Option& option, const auto&) { keys.push_back(option.key); });
  return keys;
}

bool is_section(std::string_view key) {
  const auto keys = known_keys();
  return !key.empty() && std::any_of(keys.begin(), keys.end(),
                                     [&](auto known) { return section_of(known) == key; });
}

// Insertions, deletions, substitutions and swaps of neighbours that turn a into b (optimal string
// alignment).
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) {
    for (size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        d[i][j] = i + j;
        continue;
      }
      d[i][j] = std::min(
          {d[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1), d[i - 1][j] + 1, d[i][j - 1] + 1});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  }
  return d[a.size()][b.size()];
}

// The known key somebody may have meant, or the keys there are at that place.
std::string suggestion(std::string_view key) {
  const std::string_view cut = key.substr(0, 100);  // the distance is quadratic
  std::string_view nearest;
  std::pair<size_t, size_t> best;
  for (const std::string_view known : known_keys()) {
    const size_t whole = edit_distance(cut, known);
    const std::pair distance(std::min(whole, edit_distance(leaf_of(cut), leaf_of(known))), whole);
    if (nearest.empty() || distance < best) best = distance, nearest = known;
  }
  if (best.first <= std::max<size_t>(1, leaf_of(cut).size() / 3))
    return fmt::format("the nearest known key is \"{}\"", nearest);
  const std::string_view section = is_section(section_of(key)) ? section_of(key) : "";
  std::vector<std::string> keys;
  for (const std::string_view known : known_keys()) {
    const bool here = section_of(known) == section;
    if (!here && !section.empty()) continue;
    const std::string shown = here ? std::string(known) : fmt::format("{}.*", section_of(known));
    if (keys.empty() || keys.back() != shown) keys.push_back(shown);
  }
  return fmt::format("known keys are {}", fmt::join(keys, ", "));
}

std::string describe(const Value& value) {
  if (value.is_string()) return fmt::format("\"{}\"", escaped(value.as_string()));
  if (value.is_number() || value.is_bool()) return dump_json(value);
  return std::string(name(value.kind()));
}

// " above 0", " from 1 to 4096": the accepted range, as it follows "a number".
std::string range_of(const Option& o) {
  const bool bounded = std::isfinite(o.max);
  if (!o.above_min && !o.below_max)
    return bounded ? fmt::format(" from {} to {}", o.min, o.max)
                   : fmt::format(" of at least {}", o.min);
  std::string text = fmt::format(" {} {}", o.above_min ? "above" : "of at least", o.min);
  if (bounded) text += fmt::format(" and {} {}", o.below_max ? "below" : "at most", o.max);
  return text;
}

// One value on its way into the field of its key.
struct Setting {
  std::string_view key;
  const Value& value;
  const std::string& place;  // "run.json:12" or "--set lora.rank=x"
  const std::string* raw;    // the text after '=' of a --set

  [[noreturn]] void refuse(std::string_view expected) const {
    fail(ErrorCode::Usage, "{}: {}: found {}, expected {}", place, key, describe(value), expected);
  }

  template <typename T>
  T in_range(const Option& o, const Value& x, std::string_view form) const {
    const std::string expected = std::string(form) + range_of(o);
    if (!(std::is_same_v<T, double> ? x.is_number() : x.is_int())) refuse(expected);
    const double d = x.as_number();
    if (!(o.above_min ? d > o.min : d >= o.min) || !(o.below_max ? d < o.max : d <= o.max))
      refuse(expected);
    if constexpr (std::is_same_v<T, double>)
      return d;
    else
      return x.as_int();
  }

  bool is_auto() const { return value.is_string() && value.as_string() == "auto"; }

  void assign(const Option& o, std::string& field) const {
    // On the command line 2024 is as good a folder name as any.
    if (!value.is_string() && !raw)
      refuse(o.choices.empty() ? "string" : fmt::format("one of {}", fmt::join(o.choices, ", ")));
    const std::string& text = value.is_string() ? value.as_string() : *raw;
    if (!o.choices.empty() && !is_choice(o.choices, text))
      refuse(fmt::format("one of {}", fmt::join(o.choices, ", ")));
    if (text.find('\0') != text.npos) refuse("string without NUL");
    if (o.required && text.empty()) refuse("string that is not empty");
    field = text;
  }
  void assign(const Option& o, int64_t& field) const {
    field = in_range<int64_t>(o, value, "an integer");
  }
  void assign(const Option& o, double& field) const {
    field = in_range<double>(o, value, "a number");
  }
  void assign(const Option&, bool& field) const {
    if (!value.is_bool()) refuse("true or false");
    field = value.as_bool();
  }
  void assign(const Option&, std::optional<bool>& field) const {
    if (!value.is_bool() && !is_auto()) refuse("true, false or \"auto\"");
    field = is_auto() ? std::nullopt : std::optional(value.as_bool());
  }
  void assign(const Option&, Value& field) const { field = value; }
  void assign(const Option& o, std::vector<std::string>& field) const {
    constexpr std::string_view kExpected = "a string or a list of strings, none of them empty";
    std::vector<std::string> list;
    const auto add = [&](const Value& x) {
      const bool is_number = o.numbers && x.is_int();
      list.push_back(x.is_string() ? x.as_string()
                     : is_number   ? std::to_string(x.as_int())
                                   : std::string());
    };
    if (value.is_array())
      for (const Value& x : value.as_array()) add(x);
    else
      add(raw && !value.is_string() ? Value(*raw) : value);
    if (o.may_be_empty && value.is_string() && list.front().empty()) list.clear();
    const auto has_nul = [](const std::string& x) { return x.find('\0') != x.npos; };
    if (std::any_of(list.begin(), list.end(), has_nul)) refuse("string without NUL");
    const bool is_empty = list.empty() && !o.may_be_empty;
    if (is_empty || std::find(list.begin(), list.end(), "") != list.end()) refuse(kExpected);
    field = std::move(list);
  }
  void assign(const Option& o, AutoInt<int64_t> field) const {
    field.value = is_auto() ? 0 : in_range<int64_t>(o, value, "\"auto\" or an integer");
  }
  void assign(const Option& o, AutoBytes<int64_t> field) const {
    constexpr std::string_view kExpected =
        "\"auto\", a number of bytes, or one with a unit as \"2.4 GB\" or \"512 MiB\"";
    std::optional<int64_t> bytes;
    if (is_auto())
      bytes = 0;
    else if (value.is_string())
      bytes = parse_bytes(value.as_string());
    else if (value.is_int())
      bytes = value.as_int();
    if (!bytes || (!is_auto() && static_cast<double>(*bytes) < o.min)) refuse(kExpected);
    field.value = *bytes;
  }
  void assign(const Option& o, NumberPair<double> field) const {
    if (!value.is_array() || value.as_array().size() != 2)
      refuse("a list of two numbers" + range_of(o));
    field.first = in_range<double>(o, value.as_array()[0], "two numbers");
    field.second = in_range<double>(o, value.as_array()[1], "two numbers");
  }
  template <typename T>
  void assign(const Option& o, OrderedMap<T>& field) const {
    if (!value.is_object()) refuse("an object");
    OrderedMap<T> map;
    for (const auto& [name, member] : value.as_object()) {
      const std::string path = fmt::format("{}[\"{}\"]", key, escaped(name));
      const Setting element{path, member, place, nullptr};
      if (name.empty()) element.refuse("a key that is not empty");
      element.assign(o, map.emplace_back(name, T()).second);
    }
    field = std::move(map);
  }
};

class Loader {
 public:
  void load_file(const std::string& path) {
    path_ = path;
    const std::string extension = fs::path(path).extension().string();
    if (extension != ".json" && extension != ".toml")
      fail(ErrorCode::Usage, "{}: a run config ends in .json or .toml", path);
    Value root;
    try {
      const std::string text = read_text(path, kMaxConfigBytes);
      root = extension == ".json" ? parse_json(text, path) : parse_toml(text, path);
    } catch (const Error& e) {
      // A malformed config is a mistake in how the program is used, not in its data.
      throw Error(e.code() == ErrorCode::BadInput ? ErrorCode::Usage : e.code(), e.what());
    }
    if (!root.is_object())
      fail(ErrorCode::Usage, "{}:{}: found {}, expected an object", path, root.line,
           name(root.kind()));
    for (const auto& [key, value] : root.as_object()) {
      const std::string place = fmt::format("{}:{}", path, value.line);
      if (key.find('.') != key.npos)
        fail(ErrorCode::Usage, "{}: key \"{}\": write sections as nested objects", place,
             escaped(key));
      apply(key, value, place, nullptr);
    }
  }

  void apply_set(const std::string& setting) {
    const std::string place = "--set " + escaped(setting);
    const size_t equals = setting.find('=');
    if (equals == setting.npos || equals == 0)
      fail(ErrorCode::Usage, "{}: expected key=value", place);
    const std::string raw = setting.substr(equals + 1);
    Value value(raw);
    try {
      value = parse_json(raw, "--set");
    } catch (const Error&) {
      // Not JSON: the text itself.
    }
    apply(setting.substr(0, equals), value, place, &raw);
  }

  RunConfig finish() const {
    visit_options(config_, [&](const Option& option, const auto&) {
      if (option.required && !places_.count(std::string(option.key)))
        fail(ErrorCode::Usage, "{}the key \"{}\" is required: {}",
             path_.empty() ? "" : path_ + ": ", option.key, option.help);
    });
    if (config_.train.epochs == 0 && config_.train.max_steps == 0)
      fail(ErrorCode::Usage, "{}: with train.epochs 0, train.max_steps must be above 0",
           place_of("train.epochs"));
    if (!config_.data.eval.empty() && config_.data.eval_fraction > 0)
      fail(ErrorCode::Usage,
           "{}: data.eval_fraction takes from data.train what data.eval gives; "
           "keep one of them",
           place_of("data.eval_fraction"));
    if (config_.memory.ram_bytes > 0 && config_.memory.disk == "mmap")
      fail(ErrorCode::Usage,
           "{}: memory.disk: mapped pages are the kernel's to keep, whatever memory.ram says; "
           "expected direct, buffered or auto with it",
           place_of("memory.disk"));
    if (config_.train.micro_batch_size > config_.train.batch_size)
      fail(ErrorCode::Usage,
           "{}: train.micro_batch_size: found {}, expected at most the train.batch_size of {}",
           place_of("train.micro_batch_size"), config_.train.micro_batch_size,
           config_.train.batch_size);
    return config_;
  }

 private:
  void apply(const std::string& key, const Value& value, const std::string& place,
             const std::string* raw) {
    if (is_section(key)) {
      if (!value.is_object())
        fail(ErrorCode::Usage, "{}: {}: found {}, expected an object with the keys of this section",
             place, key, describe(value));
      for (const auto& [name, member] : value.as_object())
        apply(key + "." + name, member, raw ? place : fmt::format("{}:{}", path_, member.line),
              nullptr);
      return;
    }
    const Setting setting{key, value, place, raw};
    bool known = false;
    visit_options(config_, [&](const Option& option, auto&& field) {
      if (option.key != key) return;
      known = true;
      setting.assign(option, field);
    });
    if (!known)
      fail(ErrorCode::Usage, "{}: unknown key \"{}\"; {}", place, escaped(key), suggestion(key));
    places_[key] = place;
    config_.given.insert(key);
  }

  std::string place_of(const std::string& key) const {
    const auto it = places_.find(key);
    return it == places_.end() ? path_ : it->second;
  }

  RunConfig config_;
  std::string path_;                           // empty without a file
  std::map<std::string, std::string> places_;  // where each given key was set last
};

Value plain(const std::string& field) { return field; }
Value plain(int64_t field) { return field; }
Value plain(double field) { return field; }
Value plain(bool field) { return field; }
Value plain(const std::optional<bool>& field) { return field ? Value(*field) : Value("auto"); }
Value plain(const std::vector<std::string>& field) {
  if (field.size() == 1) return field[0];
  Value::Array list;
  for (const std::string& x : field) list.push_back(x);
  return list;
}
template <typename T>
Value plain(const OrderedMap<T>& field) {
  Value::Object object;
  for (const auto& [name, value] : field) object.emplace_back(name, value);
  return object;
}
Value plain(AutoInt<const int64_t> field) {
  return field.value == 0 ? Value("auto") : Value(field.value);
}
Value plain(AutoBytes<const int64_t> field) {
  return field.value == 0 ? Value("auto") : Value(field.value);
}
Value plain(NumberPair<const double> field) { return Value::Array{field.first, field.second}; }

}  // namespace

bool is_choice(const std::vector<std::string_view>& choices, std::string_view text) {
  return std::any_of(choices.begin(), choices.end(), [&](std::string_view choice) {
    if (!choice.ends_with(":N")) return text == choice;
    const std::string_view before = choice.substr(0, choice.size() - 1);
    if (!text.starts_with(before)) return false;
    const std::string_view number = text.substr(before.size());
    return !number.empty() && number.size() <= 3 &&
           number.find_first_not_of("0123456789") == number.npos;
  });
}

RunConfig load_run_config(const std::string& path, const std::vector<std::string>& settings) {
  Loader loader;
  loader.load_file(path);
  for (const std::string& setting : settings) loader.apply_set(setting);
  return loader.finish();
}

RunConfig make_run_config(const std::vector<std::string>& settings) {
  Loader loader;
  for (const std::string& setting : settings) loader.apply_set(setting);
  return loader.finish();
}

Value to_value(const RunConfig& config) {
  Value root = Value::Object{};
  visit_options(config, [&](const Option& option, const auto& field) {
    const std::string_view section = section_of(option.key);
    if (section.empty()) {
      root.set(option.key, plain(field));
      return;
    }
    if (!root.find(section)) root.set(section, Value::Object{});
    for (auto& [key, members] : root.as_object())
      if (key == section) members.set(leaf_of(option.key), plain(field));
  });
  return root;
}

}  // namespace lema
