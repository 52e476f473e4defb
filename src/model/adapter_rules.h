// Which modules an adapter has and with which rank and scale: PEFT's rules over module paths. Used
// by AdapterParameters for fresh adapters, and for those read from disk by everyone who applies
// them.
//
// Ref: peft.tuners.tuners_utils.check_target_module_exists, peft.utils.other.get_pattern_key.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "formats/peft_adapter.h"
#include "layout/fields.h"
#include "text/regex.h"

namespace lema {

// A matrix that can have an adapter or be trained in full: the linears of the blocks, the embedding
// and the head.
struct AdapterSite {
  std::string path;    // PEFT's, "model.layers.0.self_attn.q_proj"
  std::string tensor;  // of the base weight in its file
  Field field = Field::kCount;
  int64_t block = -1;       // -1: the embedding or the head
  int64_t in = 0, out = 0;  // of the embedding: vocabulary and width
  bool transposed = false;  // the base weight is stored (in, out)

  bool is_end() const { return block < 0; }
  // Rows and columns of an end's matrix: an embedding maps its rows' numbers to them, a head maps
  // to a row each.
  int64_t vocabulary() const { return field == Field::Embed ? in : out; }
  int64_t width() const { return field == Field::Embed ? out : in; }
};

// "q_proj" of "model.layers.0.self_attn.q_proj".
std::string last_name(const std::string& path);

// Embedding, linears block by block in execution order, head.
std::vector<AdapterSite> adapter_sites(const ModelSpec& spec);

// Steps of all matches of a setting: a million and a half of plain names, seconds of the slowest.
inline constexpr int64_t kMatchSteps = 200'000'000;

// A regular expression over module paths, as Python reads it. Errors are of `code`: an expression
// that does not compile, and one that gives up.
class PathPattern {
 public:
  PathPattern(const std::string& pattern, const std::string& place, ErrorCode code);
  // Whether the whole path matches. `steps_left` as in Regex::matches_whole.
  bool matches(const std::string& path, int64_t& steps_left) const;

 private:
  Regex regex_;
  ErrorCode code_;
};

// The modules that a setting names: a list of paths or of their last parts, or one regular
// expression that matches a whole path. A single entry is an expression when it holds a character
// that no path has.
class ModuleChoice {
 public:
  // `place` names the setting in errors, which are Usage: a bad expression, one in a list, more
  // than kMaxEntries.
  ModuleChoice(const std::vector<std::string>& entries, const std::string& place);
  // As an adapter's config has it: an expression unless `regex` is empty. Errors are BadInput.
  ModuleChoice(const std::string& regex, const std::vector<std::string>& names,
               const std::string& place);
  bool matches(const std::string& path) const;
  // An entry that has matched nothing so far; nullptr when all have.
  const std::string* unmatched() const;

 private:
  // By name, or by the expression's text: whether it has matched.
  mutable std::map<std::string, bool, std::less<>> used_;
  std::optional<PathPattern> regex_;
  mutable int64_t steps_left_ = kMatchSteps;
};

// The blocks that lora.layers names: "all", numbers, "first:K", "last:K". Usage error for anything
// else, and for what lies outside [0, blocks).
std::vector<bool> chosen_blocks(const std::vector<std::string>& layers, int64_t blocks);

// Rank and scale of each module: the first pattern that matches "(.*\.)?(KEY)" decides.
class AdapterRules {
 public:
  // `place` names the config in errors, which are of `code`: expressions that do not compile or
  // give up, more than kMaxEntries of them, and more than kMatchSteps for the modules in all.
  AdapterRules(const AdapterConfig& config, const std::string& place,
               ErrorCode code = ErrorCode::BadInput);

  int64_t rank(const std::string& path) const;
  double alpha(const std::string& path) const;
  // alpha / rank, or with rslora (arXiv:2312.03732) alpha / sqrt(rank).
  double scale(const std::string& path) const;
  // A key of either pattern that has matched no path so far; empty when all have.
  std::string unmatched() const;

 private:
  template <typename T>
  struct Pattern {
    std::string key;
    PathPattern pattern;
    T value;
    mutable bool used = false;
  };
  struct Rule {
    int64_t rank;
    double alpha;
  };
  // Found once for each path.
  const Rule& rule(const std::string& path) const;
  template <typename T>
  T first_hit(const std::vector<Pattern<T>>& patterns, const std::string& path, T otherwise) const;
  template <typename T>
  static std::vector<Pattern<T>> compiled(const std::vector<std::pair<std::string, T>>& entries,
                                          const std::string& place, ErrorCode code);

  int64_t rank_;
  double alpha_;
  bool rslora_;
  std::vector<Pattern<int64_t>> ranks_;
  std::vector<Pattern<double>> alphas_;
  mutable std::unordered_map<std::string, Rule> rules_;
  mutable int64_t steps_left_ = kMatchSteps;
};

// BadInput, by name, for what an adapter from disk may have and lema does not apply: DoRA of the
// embedding.
void check_supported(const Adapter& adapter, const std::string& place);

// Holds the pairs of an adapter from disk against target_modules, exclude_modules,
// layers_to_transform and layers_pattern of its config, and leaves in the config targets alone that
// choose the same. BadInput, naming the tensor, for a pair that they do not choose: PEFT loads the
// rest and says nothing. "all-linear" is all but embedding and head.
// Ref: peft.tuners.tuners_utils.check_target_module_exists, _maybe_include_all_linear_layers.
void resolve_targets(Adapter& adapter, const std::string& place);

// BadInput when a module's matrices have another rank than the adapter's own config gives it.
void check_ranks(const Adapter& adapter, const AdapterRules& rules, const std::string& place);

}  // namespace lema
