// PEFT adapter folders: adapter_config.json and adapter_model.safetensors, read and written.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "formats/safetensors.h"

namespace lema {

// adapter_config.json of a plain LoRA adapter. Options that change the arithmetic and are not
// listed here (DoRA, bias, patterns, ...) make reading fail by name until lema has them.
struct AdapterConfig {
  std::string base_model;  // base_model_name_or_path
  int64_t rank = 0;
  double alpha = 0;
  double dropout = 0;
  bool fan_in_fan_out = false;
  std::string target_regex;                 // target_modules as one string, "" when a list
  std::vector<std::string> target_modules;  // list form
  double scaling() const { return alpha / static_cast<double>(rank); }
};

// One module's pair. A (rank, in), B (out, rank), f32.
struct AdapterModule {
  std::vector<float> a, b;
  int64_t rank = 0, in = 0, out = 0;
};

struct Adapter {
  AdapterConfig config;
  std::map<std::string, AdapterModule>
      modules;  // by module path, e.g. "model.layers.0.self_attn.q_proj"
};

// Reads a folder; F16, BF16 and F32 tensors become f32. BadInput for what is missing, left over,
// non-finite or of a shape that contradicts the config.
Adapter read_adapter(const fs::path& folder);

// Writes adapter_config.json (the 24 keys every PEFT version reads), adapter_model.safetensors
// (F32, {"format": "pt"}) and a model card into an existing folder; each file is synced.
void write_adapter(const fs::path& folder, const Adapter& adapter);

}  // namespace lema
