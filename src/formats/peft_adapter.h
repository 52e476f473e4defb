// PEFT adapter folders: adapter_config.json and adapter_model.safetensors, read and written. train,
// merge, eval and chat open adapters here; a checkpoint is such a folder.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/value.h"
#include "formats/safetensors.h"

namespace lema {

// Entries of a list of modules or a dictionary of patterns at most: several for each module of the
// largest published models.
inline constexpr int64_t kMaxEntries = 4096;

// Instead of names: every linear of the blocks.
inline constexpr const char* kAllLinear = "all-linear";

// adapter_config.json of a LoRA adapter. Options that change the arithmetic and are not listed here
// (trained biases, expert parameters, ...) make reading fail by name.
struct AdapterConfig {
  std::string base_model;  // base_model_name_or_path
  int64_t rank = 0;
  double alpha = 0;
  double dropout = 0;
  bool fan_in_fan_out = false;
  bool rslora = false;  // scaling alpha / sqrt(rank)
  bool dora = false;
  // Regular expressions over module paths, in the order of the file: the first that matches sets a
  // module's rank or alpha.
  std::vector<std::pair<std::string, int64_t>> rank_pattern;
  std::vector<std::pair<std::string, double>> alpha_pattern;
  // Which modules have pairs, names or paths; resolve_targets (model/adapter_rules.h) holds them
  // against the tensors and turns exclusions and layers into exact paths.
  std::string target_regex;                  // target_modules as one string, "" when a list
  std::vector<std::string> target_modules;   // list form; without one, the modules of the file
  std::string exclude_regex;                 // exclude_modules likewise
  std::vector<std::string> exclude_modules;
  std::vector<int64_t> layers;               // layers_to_transform, of a list of names
  std::vector<std::string> layers_patterns;  // expressions for what stands before a layer's number
  std::vector<std::string> modules_to_save;  // names or paths of modules trained in full
};

// One module's pair, f32. Of a linear: A (rank, in), B (out, rank). Of an embedding the same with
// the vocabulary as `in`.
struct AdapterModule {
  std::string place;  // for messages: file and tensor; empty in an adapter that is not from disk
  std::vector<float> a, b;
  std::vector<float> magnitude;  // (out), DoRA's; else empty
  int64_t rank = 0, in = 0, out = 0;
  bool is_embedding = false;
};

// A matrix trained in full, f32.
struct FullModule {
  std::vector<float> values;
  Shape shape;
};

// A base weight as PEFT stores it beside an adapted or resized embedding or head. Its values stay
// in the file.
struct BaseCopy {
  std::string place;        // for messages: file and tensor
  std::string weight;       // the base model's name of it, "lm_head.weight"
  bool is_wrapped = false;  // the base layer of an adapted module
  TensorEntry entry;        // F32, BF16 or F16
};

struct Adapter {
  AdapterConfig config;
  // By module path, e.g. "model.layers.0.self_attn.q_proj".
  std::map<std::string, AdapterModule> modules;
  std::map<std::string, FullModule> full;  // modules_to_save, e.g. "lm_head"
  // Of `full`: what modules_to_save does not name, base weights of the adapter's own, which it is
  // applied to and which are not trained. Set by open_adapter (model/opened_adapter.h).
  std::vector<std::string> own_base;
  std::vector<BaseCopy> base_copies;
  std::optional<SafetensorsFile> file;  // of the base copies, while there are any
};

// Reads a folder; F16, BF16 and F32 tensors become f32. BadInput for what is missing, left over,
// non-finite or of shapes that contradict each other, and for a pair of a module of
// modules_to_save. Whether each rank is what the config's
// patterns say, its reader checks (model/adapter_rules.h).
Adapter read_adapter(const fs::path& folder);

// The values of a copy that is a matrix; BadInput for one that is not finite.
FullModule read_base_copy(const SafetensorsFile& file, const BaseCopy& copy);

// The chat template that an adapter was trained with, where that is not the base model's: a file
// under the name that transformers gives it. nullopt when the folder has none.
inline constexpr const char* kAdapterTemplate = "chat_template.jinja";
std::optional<fs::path> adapter_template(const fs::path& folder);

// Writes adapter_config.json (the 24 keys every PEFT version reads), adapter_model.safetensors
// (F32, {"format": "pt"}) and a model card into an existing folder; each file is synced.
void write_adapter(const fs::path& folder, const Adapter& adapter);

// The two directions of adapter_config.json; keys that are absent take LoraConfig's defaults.
AdapterConfig parse_adapter_config(const Value& json, const std::string& source);
Value adapter_config_json(const AdapterConfig& config);

}  // namespace lema
