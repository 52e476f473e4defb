// Matching of module paths.
#include "model/adapter_rules.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>
#include <utility>

#include "core/error.h"

namespace lema {
namespace {

constexpr const char* kHeadModule = "lm_head";  // in every family

// Python's letters of an attribute name, and the dot between names.
bool is_path(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.';
  });
}

// An expression's errors become those of `code`.
template <typename Use>
auto with_code(ErrorCode code, const Use& use) {
  try {
    return use();
  } catch (const Error& e) {
    throw Error(e.code() == ErrorCode::BadInput ? code : e.code(), e.what());
  }
}

void check_count(size_t entries, const std::string& place, ErrorCode code) {
  if (std::cmp_greater(entries, kMaxEntries))
    fail(code, "{}: found {} entries, at most {} are allowed", place, entries, kMaxEntries);
}

std::optional<int64_t> whole_number(std::string_view text) {
  int64_t n = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
  if (error != std::errc() || end != text.data() + text.size() || n < 0) return std::nullopt;
  return n;
}

// The layers of an adapter's config, and which a path is of.
class LayerChoice {
 public:
  LayerChoice(const AdapterConfig& config, const std::string& place) : layers_(config.layers) {
    for (const std::string& pattern : config.layers_patterns)
      patterns_.emplace_back("(.*\\.)?(" + pattern + ")", place, ErrorCode::BadInput);
  }

  bool has(const std::string& path) const {
    const int64_t layer = layer_of(path);
    return layers_.empty() || std::find(layers_.begin(), layers_.end(), layer) != layers_.end();
  }

 private:
  // The first number between dots that has two names before it or, with patterns, the first of
  // them that matches; -1: of no layer.
  int64_t layer_of(const std::string& path) const {
    if (patterns_.empty())
      return first_number(
          path, [](const std::string& front) { return front.find('.') != std::string::npos; });
    int64_t layer = -1;
    for (size_t i = 0; i < patterns_.size() && layer < 0; ++i)
      layer = first_number(
          path, [&](const std::string& front) { return patterns_[i].matches(front, steps_left_); });
    return layer;
  }

  template <typename Fits>
  static int64_t first_number(const std::string& path, const Fits& fits) {
    for (size_t dot = path.find('.'); dot != std::string::npos;) {
      const size_t next = path.find('.', dot + 1);
      if (next == std::string::npos) break;
      const auto n = whole_number(std::string_view(path).substr(dot + 1, next - dot - 1));
      if (n && fits(path.substr(0, dot))) return *n;
      dot = next;
    }
    return -1;
  }

  std::vector<int64_t> layers_;
  std::vector<PathPattern> patterns_;
  mutable int64_t steps_left_ = kMatchSteps;
};

}  // namespace

std::string last_name(const std::string& path) { return path.substr(path.rfind('.') + 1); }

std::vector<AdapterSite> adapter_sites(const ModelSpec& spec) {
  const Shape& table = spec.embed.shape;
  std::vector<AdapterSite> sites = {
      {spec.embed.module, spec.embed.tensor, Field::Embed, -1, table[0], table[1], false}};
  for (size_t block = 0; block < spec.blocks.size(); ++block)
    for (const PieceSpec& piece : spec.blocks[block])
      for (const FieldSpec& field : piece.fields) {
        if (field.module.empty()) continue;
        const int out_axis = spec.linear_transposed ? 1 : 0;
        sites.push_back({field.module, field.tensor, field.field, static_cast<int64_t>(block),
                         field.shape[1 - out_axis], field.shape[out_axis], spec.linear_transposed});
      }
  sites.push_back({spec.head.module, spec.head.tensor, Field::Head, -1, spec.head.shape[1],
                   spec.head.shape[0], false});
  return sites;
}

PathPattern::PathPattern(const std::string& pattern, const std::string& place, ErrorCode code)
    : regex_(with_code(code, [&] { return Regex::python(pattern, place); })), code_(code) {}

bool PathPattern::matches(const std::string& path, int64_t& steps_left) const {
  return with_code(code_, [&] { return regex_.matches_whole(path, steps_left); });
}

ModuleChoice::ModuleChoice(const std::vector<std::string>& entries, const std::string& place) {
  check_count(entries.size(), place, ErrorCode::Usage);
  for (const std::string& entry : entries) used_[entry] = false;
  if (entries.size() == 1 && !is_path(entries[0])) {
    regex_.emplace(entries[0], place, ErrorCode::Usage);
    return;
  }
  for (const std::string& entry : entries)
    if (!is_path(entry))
      fail(ErrorCode::Usage,
           "{}: \"{}\" in a list is no module name; a regular expression stands alone, as a string",
           place, escaped(entry));
}

ModuleChoice::ModuleChoice(const std::string& regex, const std::vector<std::string>& names,
                           const std::string& place) {
  for (const std::string& entry : names) used_[entry] = false;
  if (regex.empty()) return;
  used_[regex] = false;
  regex_.emplace(regex, place, ErrorCode::BadInput);
}

bool ModuleChoice::matches(const std::string& path) const {
  if (regex_) {
    const bool found = regex_->matches(path, steps_left_);
    if (found) used_.begin()->second = true;
    return found;
  }
  bool found = false;
  for (size_t begin = 0; begin <= path.size();) {
    const auto name = used_.find(std::string_view(path).substr(begin));
    if (name != used_.end()) found = name->second = true;
    const size_t dot = path.find('.', begin);
    if (dot == std::string::npos) break;
    begin = dot + 1;
  }
  return found;
}

const std::string* ModuleChoice::unmatched() const {
  const auto unused =
      std::find_if(used_.begin(), used_.end(), [](const auto& entry) { return !entry.second; });
  return unused == used_.end() ? nullptr : &unused->first;
}

std::vector<bool> chosen_blocks(const std::vector<std::string>& layers, int64_t blocks) {
  std::vector<bool> chosen(static_cast<size_t>(blocks), false);
  for (const std::string& entry : layers) {
    const bool first = entry.starts_with("first:"), last = entry.starts_with("last:");
    auto n = whole_number(std::string_view(entry).substr(first ? 6 : last ? 5 : 0));
    if (n) n = std::min(*n, blocks + 1);  // as far outside as any larger one
    int64_t begin = 0, end = blocks;
    if (!n && entry != "all")
      fail(ErrorCode::Usage,
           "lora.layers: found \"{}\", expected all, a block number, first:K or last:K",
           escaped(entry));
    if (n && !last) end = first ? *n : *n + 1;
    if (n && !first) begin = last ? blocks - *n : *n;
    if (begin < 0 || end > blocks || begin >= end)
      fail(ErrorCode::Usage, "lora.layers: \"{}\" names no blocks of this model, which has 0 to {}",
           escaped(entry), blocks - 1);
    std::fill(chosen.begin() + begin, chosen.begin() + end, true);
  }
  return chosen;
}

template <typename T>
std::vector<AdapterRules::Pattern<T>> AdapterRules::compiled(
    const std::vector<std::pair<std::string, T>>& entries, const std::string& place,
    ErrorCode code) {
  check_count(entries.size(), place, code);
  std::vector<Pattern<T>> patterns;
  for (const auto& [key, value] : entries)
    patterns.push_back({key, PathPattern("(.*\\.)?(" + key + ")", place, code), value});
  return patterns;
}

template <typename T>
T AdapterRules::first_hit(const std::vector<Pattern<T>>& patterns, const std::string& path,
                          T otherwise) const {
  for (const Pattern<T>& pattern : patterns) {
    if (!pattern.pattern.matches(path, steps_left_)) continue;
    pattern.used = true;
    return pattern.value;
  }
  return otherwise;
}

AdapterRules::AdapterRules(const AdapterConfig& config, const std::string& place, ErrorCode code)
    : rank_(config.rank),
      alpha_(config.alpha),
      rslora_(config.rslora),
      ranks_(compiled(config.rank_pattern, place + ": rank_pattern", code)),
      alphas_(compiled(config.alpha_pattern, place + ": alpha_pattern", code)) {}

const AdapterRules::Rule& AdapterRules::rule(const std::string& path) const {
  const auto known = rules_.find(path);
  if (known != rules_.end()) return known->second;
  const Rule rule{first_hit(ranks_, path, rank_), first_hit(alphas_, path, alpha_)};
  return rules_.emplace(path, rule).first->second;
}

int64_t AdapterRules::rank(const std::string& path) const { return rule(path).rank; }
double AdapterRules::alpha(const std::string& path) const { return rule(path).alpha; }

double AdapterRules::scale(const std::string& path) const {
  const auto r = static_cast<double>(rank(path));
  return alpha(path) / (rslora_ ? std::sqrt(r) : r);
}

std::string AdapterRules::unmatched() const {
  for (const auto& pattern : ranks_)
    if (!pattern.used) return "rank_pattern: \"" + escaped(pattern.key) + "\"";
  for (const auto& pattern : alphas_)
    if (!pattern.used) return "alpha_pattern: \"" + escaped(pattern.key) + "\"";
  return {};
}

void check_supported(const Adapter& adapter, const std::string& place) {
  constexpr const char* kWayOut = "is not supported; merge it with PEFT (merge_and_unload)";
  for (const auto& [path, module] : adapter.modules)
    if (module.is_embedding && adapter.config.dora)
      fail(ErrorCode::BadInput, "{}: DoRA of the embedding {} {}", place, escaped(path), kWayOut);
}

void resolve_targets(Adapter& adapter, const std::string& place) {
  AdapterConfig& config = adapter.config;
  const ModuleChoice targets(config.target_regex, config.target_modules,
                             place + ": target_modules");
  const ModuleChoice excluded(config.exclude_regex, config.exclude_modules,
                              place + ": exclude_modules");
  const LayerChoice layers(config, place + ": layers_pattern");
  const bool all_linear = config.target_regex == kAllLinear;
  const std::set<std::string> exact(config.target_modules.begin(), config.target_modules.end());
  for (const auto& [path, module] : adapter.modules) {
    const bool is_end = module.is_embedding || path == kHeadModule;
    const bool is_named = all_linear ? !is_end : targets.matches(path);
    const char* reason = excluded.matches(path) ? "exclude_modules takes its module out"
                         : !is_named            ? "target_modules does not name its module"
                         : !exact.contains(path) && !layers.has(path)
                             ? "layers_to_transform leaves its layer out"
                             : nullptr;
    if (reason)
      fail(ErrorCode::BadInput, "{}: {} in the adapter's own config, and PEFT would not apply it",
           module.place, reason);
  }
  const bool names_all =
      config.exclude_regex.empty() && config.exclude_modules.empty() && config.layers.empty();
  if (names_all) return;
  config.target_regex.clear();
  config.target_modules.clear();
  for (const auto& [path, module] : adapter.modules) config.target_modules.push_back(path);
  config.exclude_regex.clear();
  config.exclude_modules.clear();
  config.layers.clear();
  config.layers_patterns.clear();
}

void check_ranks(const Adapter& adapter, const AdapterRules& rules, const std::string& place) {
  for (const auto& [path, module] : adapter.modules)
    if (module.rank != rules.rank(path))
      fail(ErrorCode::BadInput, "{}: {} is of rank {}; r and rank_pattern of its config give {}",
           place, escaped(path), module.rank, rules.rank(path));
}

}  // namespace lema
