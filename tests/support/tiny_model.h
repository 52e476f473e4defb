// A tiny random model folder (of the Llama family or GPT-2) with the byte tokenizer of tiny_text.h,
// and rows of random ids, for tests that train and generate.
#pragma once

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "core/rng.h"
#include "data/dataset.h"
#include "formats/json.h"
#include "formats/safetensors.h"
#include "layout/piece_table.h"
#include "support/tiny_text.h"

namespace lema::test {

struct TinyModelOptions {
  Family family = Family::Llama;
  int64_t L = 3;
  DType dtype = DType::F32;
  bool tied_head = false;
  bool has_own_head = false;    // all the same, as files of a changed head do
  Value::Object settings = {};  // of config.json, in place of those below
  int64_t spaces = 0;           // more than lema's own files have where the header ends
};

// A tiny model of another family than Llama whose blocks are alike but for the family's switches.
inline TinyModelOptions tiny_family(std::string_view model_type, std::string_view architecture,
                                    Value::Object settings) {
  TinyModelOptions options;
  options.settings = std::move(settings);
  options.settings.emplace_back("model_type", model_type);
  options.settings.emplace_back("architectures", Value::Array{architecture});
  return options;
}

inline Value tiny_base_config(const TinyModelOptions& o) {
  const int64_t V = lema::testing::kTinyVocabulary;
  if (o.family == Family::Gpt2)
    return Value::Object{{"architectures", Value::Array{"GPT2LMHeadModel"}},
                         {"model_type", "gpt2"},
                         {"n_embd", 32},
                         {"n_layer", o.L},
                         {"n_head", 4},
                         {"n_positions", 128},
                         {"vocab_size", V},
                         {"activation_function", "gelu_new"},
                         {"tie_word_embeddings", o.tied_head},
                         {"eos_token_id", int64_t{lema::testing::kEndOfText}}};
  return Value::Object{{"architectures", Value::Array{"LlamaForCausalLM"}},
                       {"model_type", "llama"},
                       {"hidden_size", 32},
                       {"intermediate_size", 48},
                       {"num_hidden_layers", o.L},
                       {"num_attention_heads", 4},
                       {"num_key_value_heads", 2},
                       {"max_position_embeddings", 128},
                       {"vocab_size", V},
                       {"rms_norm_eps", 1e-5},
                       {"rope_theta", 10000.0},
                       {"hidden_act", "silu"},
                       {"tie_word_embeddings", o.tied_head},
                       {"eos_token_id", int64_t{lema::testing::kEndOfText}}};
}

inline Value tiny_config(const TinyModelOptions& options) {
  Value config = tiny_base_config(options);
  for (const auto& [key, value] : options.settings) config.set(key, value);
  return config;
}

// Two models that hold what no Llama has: norms of heads and windows; fused matrices, partial
// rotation. Both rotate rows beyond 16 tokens in another way than shorter ones.
inline TinyModelOptions tiny_qwen3() {
  return tiny_family("qwen3", "Qwen3ForCausalLM",
                     {{"head_dim", 8},
                      {"max_position_embeddings", 16},
                      {"rope_scaling", Value::Object{{"rope_type", "dynamic"}, {"factor", 8.0}}},
                      {"use_sliding_window", true},
                      {"sliding_window", 5},
                      {"max_window_layers", 1}});
}
inline TinyModelOptions tiny_phi3() {
  return tiny_family("phi3", "Phi3ForCausalLM",
                     {{"partial_rotary_factor", 0.75},
                      {"original_max_position_embeddings", 16},
                      {"rope_scaling", Value::Object{{"type", "longrope"},
                                                     {"short_factor", Value::Array{1, 1.1, 1.2}},
                                                     {"long_factor", Value::Array{2, 3.5, 5}}}}});
}

// Values uniform in +-0.3 around 1 (norm weights) or 0, from the tensor's number.
inline std::vector<char> tiny_values(const FieldSpec& spec, DType dtype, uint64_t seed) {
  const int64_t n = spec.shape.elements(), width = element_bytes(dtype);
  std::vector<char> bytes(static_cast<size_t>(n * width));
  const float centre =
      spec.tensor.find("norm") != std::string::npos || spec.tensor.find("ln_") != std::string::npos;
  for (int64_t i = 0; i < n; ++i) {
    const float x =
        centre +
        0.6f * (uniform(philox(seed, RngStream::AdapterInit, static_cast<uint64_t>(i))[0]) - 0.5f);
    char* at = bytes.data() + i * width;
    if (dtype == DType::F32)
      *reinterpret_cast<float*>(at) = x;
    else if (dtype == DType::BF16)
      *reinterpret_cast<bf16*>(at) = to_bf16(x);
    else
      *reinterpret_cast<f16*>(at) = to_f16(x);
  }
  return bytes;
}

// Lets everything after it begin that much later.
inline void lengthen_header(const fs::path& path, int64_t spaces) {
  std::string file = read_text(path, INT64_MAX);
  uint64_t header = 0;
  std::memcpy(&header, file.data(), sizeof(header));
  file.insert(sizeof(header) + header, static_cast<size_t>(spaces), ' ');
  header += static_cast<uint64_t>(spaces);
  std::memcpy(file.data(), &header, sizeof(header));
  write_file(path, file);
}

inline void write_tiny_model(const fs::path& folder, const TinyModelOptions& options = {}) {
  fs::create_directories(folder);
  const Value config = tiny_config(options);
  write_file(folder / "config.json", dump_json(config, 2));
  write_file(folder / "tokenizer.json", dump_json(lema::testing::tiny_tokenizer_json()));
  write_file(folder / "tokenizer_config.json",
             dump_json(Value::Object{{"eos_token", "<|endoftext|>"}}));
  const ModelSpec spec =
      model_spec(parse_model_config(config, "config.json"), [](const char*) { return false; });
  std::vector<FieldSpec> fields = {spec.embed};
  for (const FieldSpec& field : spec.positions) fields.push_back(field);
  for (const auto& block : spec.blocks)
    for (const PieceSpec& piece : block)
      fields.insert(fields.end(), piece.fields.begin(), piece.fields.end());
  for (const FieldSpec& field : spec.final_norm) fields.push_back(field);
  FieldSpec head = spec.head;
  if (options.has_own_head) head.tensor = "lm_head.weight";
  if (!options.tied_head || options.has_own_head) fields.push_back(head);
  std::vector<TensorSpec> tensors;
  for (const FieldSpec& field : fields)
    tensors.push_back({field.tensor, options.dtype, field.shape});
  SafetensorsWriter writer(folder / "model.safetensors", tensors, {{"format", "pt"}});
  for (size_t i = 0; i < fields.size(); ++i) {
    const std::vector<char> bytes = tiny_values(fields[i], options.dtype, i);
    writer.write(bytes.data(), static_cast<int64_t>(bytes.size()));
  }
  writer.finish();
  if (options.spaces > 0) lengthen_header(folder / "model.safetensors", options.spaces);
}

// `count` rows of 2 .. longest random ids, most of them trained, as the tokens format.
inline void write_random_rows(const fs::path& path, int64_t count, int64_t longest = 30) {
  std::string text;
  for (int64_t row = 0; row < count; ++row) {
    const auto draw = [&](int64_t i, uint32_t range) {
      return static_cast<int64_t>(
          philox(9, RngStream::Shuffle, static_cast<uint64_t>(row), static_cast<uint32_t>(i))[0] %
          range);
    };
    Value::Array ids, mask;
    const int64_t length = 2 + draw(1000, static_cast<uint32_t>(longest - 1));
    for (int64_t i = 0; i < length; ++i) {
      ids.emplace_back(draw(i, lema::testing::kTinyVocabulary));
      mask.emplace_back(int64_t{i + 1 == length || draw(i + 2000, 4) > 0});
    }
    text += dump_json(Value::Object{{"tokens", ids}, {"mask", mask}}) + "\n";
  }
  write_file(path, text);
}

}  // namespace lema::test
