// RunConfig: every setting of `lema train`, from JSON, TOML, --set and defaults. Each option is
// declared once, in visit_options (run_options.h); parsing, --set, --print-config, help and the
// JSON schema walk that declaration.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/value.h"

namespace lema {

// An object of the config whose keys are the user's own, in their order.
template <typename T>
using OrderedMap = std::vector<std::pair<std::string, T>>;

struct RunConfig {
  std::set<std::string> given;  // the keys that file or settings state; no option itself
  std::string model;       // folder of a Hugging Face model or of `lema convert`
  std::string output_dir;  // the run folder
  int64_t seed = 42;
  std::string device = "auto";   // auto | cpu | cuda | cuda:N
  std::string method = "lora";   // lora
  std::string compute = "auto";  // auto | f32 | bf16 | f16
  int64_t threads = 0;           // CPU threads; 0: all

  struct Data {
    std::vector<std::string> train;  // files, or folders of files
    std::vector<std::string> eval;   // empty: none
    double eval_fraction = 0;        // of the training rows, when there is no eval
    std::string format = "auto";     // auto | text | completion | chat | alpaca | sharegpt | tokens
    OrderedMap<std::string> map;     // our name of a field or role -> the file's
    int64_t max_tokens = 2048;       // of one row
    bool packing = true;             // rows end to end, attention within each
    std::string too_long = "error";  // error | drop | truncate
    std::string bad_rows = "error";  // error | skip
    int64_t max_bad_rows = 100;      // that skip tolerates
    std::optional<bool> append_eos;  // unset, key `auto`: true for text and completion
    std::string train_on = "completions";    // completions | last | each | all
    std::string chat_template;               // empty: the model's; else a name of its, a file, or
                                             // chatml | llama3
    OrderedMap<Value> chat_template_kwargs;  // more variables of the template
    bool shuffle = true;
    std::string cache = "auto";  // auto: beside the run folder; off; else a folder
  } data;

  struct Lora {
    int64_t rank = 16;
    double alpha = 32;
    double dropout = 0;
    std::vector<std::string> targets = {"all-linear"};
    std::vector<std::string> exclude_modules;
    std::vector<std::string> layers = {"all"};
    OrderedMap<int64_t> rank_pattern;  // regular expression over module paths -> rank
    OrderedMap<double> alpha_pattern;
    bool rslora = false;
    bool dora = false;
    std::vector<std::string> modules_to_save;  // trained in full
    double plus_ratio = 1;  // LoRA+: the rate of B over that of A
    double plus_embedding_lr = 1e-6;  // with it: the highest rate of the embedding's pair
    std::string init_from;  // adapter folder
  } lora;

  struct Optimizer {
    double lr = 2e-4;
    double beta1 = 0.9, beta2 = 0.999;  // key `betas`: [beta1, beta2]
    double eps = 1e-8;
    double weight_decay = 0;
    double clip = 1.0;  // global gradient norm; 0: off
  } optimizer;

  struct Schedule {
    std::string name = "cosine";  // cosine | linear | constant | wsd
    double warmup = 0.03;         // < 1: share of all steps; >= 1: steps
    double min_lr_ratio = 0.1;
  } schedule;

  struct Train {
    double epochs = 1;
    int64_t max_steps = 0;         // 0: by epochs
    int64_t batch_size = 8;        // rows per optimizer step
    int64_t micro_batch_size = 0;  // rows; 0: auto
    int64_t token_tile = 2048;
  } train;

  struct Memory {
    int64_t vram_bytes =
        0;  // key `vram`: auto (0) or bytes with a unit; on the CPU an arena of this size
    int64_t ram_bytes = 0;             // key `ram`: auto (0) or bytes with a unit
    std::string residency = "auto";    // auto | stream | resident
    int64_t slots = 0;                 // 0: auto; blocks in the ring
    std::string activations = "auto";  // auto | keep | recompute | offload
    std::string disk = "auto";         // auto | direct | buffered | mmap
  } memory;

  struct Guard {
    std::string nonfinite = "stop";  // stop | skip
    double spike_zscore = 0;         // standard deviations; 0: off
    int64_t max_skips = 10;          // steps in a row
  } guard;

  struct Checkpoint {
    int64_t every_steps = 500;  // 0: at the end only
    int64_t keep = 3;
    std::optional<bool> best;  // unset, key `auto`: true when there is an eval set
  } checkpoint;

  struct Eval {
    int64_t every_steps = 0;  // 0: with each checkpoint
  } eval;

  struct Log {
    int64_t every_steps = 1;
    std::string trace;  // file; empty: none
  } log;
};

// Reads `path` (.json or .toml) and applies "key.sub=value" settings over it. Throws Usage
// "PATH:LINE: ..." for an unknown key (naming the nearest known one), a wrong type, a value out of
// range or a missing required key.
RunConfig load_run_config(const std::string& path, const std::vector<std::string>& settings);

// As above without a file.
RunConfig make_run_config(const std::vector<std::string>& settings);

// The resolved config with every key, as `--print-config` and run.json show it; load_run_config
// reads it back equal.
Value to_value(const RunConfig& config);

// The JSON schema of configs/run.schema.json.
Value run_config_schema();

// One line an option: key, meaning, choices, [default].
std::string run_config_help();

}  // namespace lema
