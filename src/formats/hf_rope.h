// RoPE settings of a config.json as numbers, in the key spellings of transformers v4 and v5. Called
// by the reader of config.json (hf_config.cpp).
#pragma once

#include "formats/hf_model.h"
#include "formats/json_fields.h"

namespace lema {

inline constexpr int64_t kMaxPositions = int64_t{1} << 31;  // of a sequence

// `config` holds D and max_positions (max_position_embeddings as it stands). BadInput naming key
// and place for a kind that no model here has, and for missing or impossible settings. `is_phi3`:
// the rules of Phi3Config, which calls longrope also "su" and "yarn", has a pretraining length at
// the top level alone, and is the one family with partial rotation.
RopeConfig parse_rope(const JsonFields& fields, const ModelConfig& config, bool is_phi3);

// As config.json spells it; None is "none (learned positions)".
std::string_view name(RopeConfig::Kind kind);

// Tokens of the longest row that a model with max_position_embeddings `max_positions` is made for:
// linear and dynamic scaling stretch it by their factor, yarn the length of its pretraining.
int64_t stretched_positions(const RopeConfig& rope, int64_t max_positions);

}  // namespace lema
