// A Hugging Face model folder: config.json as plain numbers and the index of its tensors, single
// file or shards.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/value.h"
#include "formats/safetensors.h"

namespace lema {

enum class Family { Llama, Gpt2 };
enum class Activation { Silu, GeluTanh };

// Rotary position embedding; formats differ in key names only (rope_scaling of v4, rope_parameters
// of v5).
struct RopeConfig {
  enum class Kind { None, Default, Linear, Dynamic, Yarn, LongRope, Llama3 };
  Kind kind = Kind::Default;  // None: learned positions
  double theta = 10000;
  int64_t dim = 0;  // rotated columns of a head, the first ones; an odd number is rounded up
  double factor = 1;
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
  double beta_fast = 32, beta_slow = 1;              // yarn
  bool truncate = true;                              // yarn: bounds of the ramp are integers
  std::vector<float> short_factors = {}, long_factors = {};  // longrope: one per pair of columns
  double attention_factor = 1;                               // yarn, longrope: on cosines and sines
  // Length of the pretraining (llama3, yarn, longrope); of dynamic scaling max_position_embeddings.
  int64_t original_max_positions = 0;
};

// What the numbers of a model are. Letters as in the kernels.
struct ModelConfig {
  Family family = Family::Llama;
  std::string model_type;         // as in config.json
  int64_t C = 0;                  // hidden_size
  int64_t F = 0;                  // intermediate_size
  int64_t H = 0, Hkv = 0, D = 0;  // query heads, key-value heads, head size
  int64_t V = 0;                  // vocab_size (rows of the embedding)
  int64_t L = 0;                  // blocks
  int64_t max_positions = 0;      // of the longest row that the model is made for
  double norm_eps = 0;
  RopeConfig rope;
  Activation activation = Activation::Silu;
  bool qkv_bias = false, o_bias = false, mlp_bias = false;
  bool qk_norm = false;    // RMSNorm of each head of q and k before RoPE
  bool is_fused = false;   // qkv_proj and gate_up_proj, each one matrix
  bool tied_head = false;  // the head is the embedding, unless the files hold another
  // Per block: how many keys a query sees at most, its own the last; 0: all before it.
  std::vector<int64_t> windows;
  std::vector<int64_t> eos_ids;  // config.json's eos_token_id, int or list

  // Columns of q and k, and of q, k and v, side by side.
  int64_t qk_cols() const { return (H + Hkv) * D; }
  int64_t qkv_cols() const { return (H + 2 * Hkv) * D; }
  // Columns of the activation's input: gate and up, or what GELU takes.
  int64_t mlp_in_cols() const { return activation == Activation::Silu ? 2 * F : F; }
};

// Values missing in `config` take transformers' class defaults; token ids outside the vocabulary
// are left out. BadInput "SOURCE:LINE: ..." for an unsupported architecture, RoPE type, activation
// or option that changes the arithmetic (listing what is supported), and for numbers out of range.
ModelConfig parse_model_config(const Value& config, const std::string& source);

// Where one tensor lies.
struct StoredTensor {
  size_t file = 0;  // index into ModelFolder::files()
  TensorEntry entry;
};

// The parsed file of that name in the folder, nullopt when there is none. BadInput for a name that
// leads out of the folder and for malformed JSON.
std::optional<Value> optional_json(const fs::path& folder, const std::string& file_name);

// An opened model folder. Every path is confined to the folder (confined_path.h), each shard holds
// exactly what the index claims.
class ModelFolder {
 public:
  explicit ModelFolder(const fs::path& folder);

  const fs::path& path() const { return path_; }
  const ModelConfig& config() const { return config_; }
  const Value& config_json() const { return config_json_; }
  const std::vector<SafetensorsFile>& files() const { return files_; }
  // nullptr when absent.
  const StoredTensor* find(const std::string& name) const;
  const std::map<std::string, StoredTensor>& tensors() const { return tensors_; }
  // "PATH/model-00001-of-00002.safetensors: tensor NAME", for messages.
  std::string place(const StoredTensor& tensor) const;
  // Every id a chat stops on: eos_token_id of generation_config.json and of config.json.
  std::vector<int64_t> stop_ids() const;

 private:
  fs::path path_;
  Value config_json_;
  ModelConfig config_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, StoredTensor> tensors_;
};

}  // namespace lema
