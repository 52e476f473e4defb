// The one declaration of every run option: key, field, meaning, accepted values. Everything about
// options walks it: reading and --set (run_config.cpp), --print-config (run_config.cpp), help and
// the JSON schema (run_schema.cpp).
#pragma once

#include <limits>
#include <string_view>
#include <vector>

#include "formats/run_config.h"

namespace lema {

// Whether `text` is one of them; "x:N" among them stands for x:0 to x:999.
bool is_choice(const std::vector<std::string_view>& choices, std::string_view text);

inline const std::vector<std::string_view> kDeviceNames = {"auto", "cpu", "cuda", "cuda:N"};

struct Option {
  std::string_view key;                                           // dotted
  std::string_view help;                                          // meaning and unit
  std::vector<std::string_view> choices = {};  // of a string, see is_choice; empty: any
  double min = 0, max = std::numeric_limits<double>::infinity();  // of a number
  bool above_min = false, below_max = false;                      // the bound itself is excluded
  bool required = false;
  bool may_be_empty = false;  // of a list; "" is the empty one
  bool numbers = false;       // entries of a list may be whole numbers, taken as text
};

// Fields whose config form differs from their type. T is const when the config is.
template <typename T>
struct AutoInt {  // "auto" (0) or an integer
  T& value;
};
template <typename T>
AutoInt(T&) -> AutoInt<T>;
template <typename T>
struct AutoBytes {  // "auto" (0), bytes, or a string with a unit
  T& value;
};
template <typename T>
AutoBytes(T&) -> AutoBytes<T>;
template <typename T>
struct NumberPair {  // [first, second]
  T &first, &second;
};
template <typename T>
NumberPair(T&, T&) -> NumberPair<T>;

// Calls visit(Option, field) for every option, in the order configs are printed. A field is a
// std::string, int64_t, double, bool, std::optional<bool> ("auto" when unset),
// std::vector<std::string> (a string or a list), a Value (anything), an OrderedMap (an object whose
// values are of the option's choices and range) or one of the forms above. A key has at most one
// dot; what stands before it is a section.
template <typename Config, typename Visit>
void visit_options(Config& c, Visit&& visit) {
  constexpr double kMany = 1e9;
  visit(Option{.key = "model",
               .help = "folder of a Hugging Face model, or one written by lema convert",
               .required = true},
        c.model);
  visit(Option{.key = "output_dir", .help = "the run folder, made by the run", .required = true},
        c.output_dir);
  visit(Option{.key = "seed", .help = "of the adapter's start, the order of rows and dropout"},
        c.seed);
  visit(Option{.key = "device",
               .help = "where the arithmetic runs; auto: the GPU if there is one",
               .choices = kDeviceNames},
        c.device);
  visit(Option{.key = "method", .help = "what is trained", .choices = {"lora"}}, c.method);
  visit(Option{.key = "compute",
               .help = "storage type of activations; auto follows the device and the model",
               .choices = {"auto", "f32", "bf16", "f16"}},
        c.compute);
  visit(Option{.key = "threads", .help = "CPU threads; 0: one for each CPU", .max = 4096},
        c.threads);

  visit(Option{.key = "data.train",
               .help = "training rows: a file, a folder or a list of them",
               .required = true},
        c.data.train);
  visit(Option{.key = "data.eval",
               .help = "rows of the evaluation loss; empty: none",
               .may_be_empty = true},
        c.data.eval);
  visit(Option{.key = "data.eval_fraction",
               .help = "share of the training rows that is evaluated instead, chosen by content",
               .max = 1,
               .below_max = true},
        c.data.eval_fraction);
  visit(Option{.key = "data.format",
               .help = "shape of the rows; auto tells by the first one of each file",
               .choices = {"auto", "text", "completion", "chat", "alpaca", "sharegpt", "tokens"}},
        c.data.format);
  visit(Option{.key = "data.map", .help = "lema's name of a field or role: the name in the files"},
        c.data.map);
  visit(
      Option{.key = "data.max_tokens", .help = "longest row, in tokens", .min = 1, .max = 1 << 24},
      c.data.max_tokens);
  visit(
      Option{.key = "data.packing", .help = "put rows end to end; attention stays within each row"},
      c.data.packing);
  visit(Option{.key = "data.too_long",
               .help = "what to do with rows above data.max_tokens",
               .choices = {"error", "drop", "truncate"}},
        c.data.too_long);
  visit(
      Option{.key = "data.bad_rows",
             .help = "what to do with rows that cannot be used; skip lists them in bad_rows.jsonl",
             .choices = {"error", "skip"}},
      c.data.bad_rows);
  visit(Option{.key = "data.max_bad_rows", .help = "bad rows that skip tolerates", .max = kMany},
        c.data.max_bad_rows);
  visit(Option{.key = "data.append_eos",
               .help = "end each row with the end token; auto: for text and completion rows"},
        c.data.append_eos);
  visit(Option{.key = "data.train_on",
               .help = "tokens that carry a loss: the answers, the last one of each row, each in a "
                       "row of its own, or all",
               .choices = {"completions", "last", "each", "all"}},
        c.data.train_on);
  visit(Option{.key = "data.chat_template",
               .help = "a template of the model by name, a file, chatml or llama3; empty: the "
                       "model's default"},
        c.data.chat_template);
  visit(Option{.key = "data.chat_template_kwargs",
               .help = "more variables of the chat template, as enable_thinking"},
        c.data.chat_template_kwargs);
  visit(Option{.key = "data.shuffle", .help = "a different order of rows in each epoch"},
        c.data.shuffle);
  visit(Option{.key = "data.cache",
               .help = "folder of tokenised data sets; auto: .lema-cache beside output_dir; off"},
        c.data.cache);

  visit(Option{.key = "lora.rank", .help = "rank of the adapter's matrices", .min = 1, .max = 4096},
        c.lora.rank);
  visit(Option{.key = "lora.alpha",
               .help = "the adapter's output is scaled by alpha/rank, with rslora by "
                       "alpha/sqrt(rank)",
               .max = 1e9,
               .above_min = true},
        c.lora.alpha);
  visit(Option{.key = "lora.dropout",
               .help = "share of the adapter's inputs that are zeroed in training",
               .max = 1,
               .below_max = true},
        c.lora.dropout);
  visit(Option{.key = "lora.targets",
               .help = "modules that get an adapter: all-linear, a list of names, or one regular "
                       "expression over whole paths"},
        c.lora.targets);
  visit(Option{.key = "lora.exclude_modules",
               .help = "modules that get none all the same: a list of names or one expression",
               .may_be_empty = true},
        c.lora.exclude_modules);
  visit(Option{.key = "lora.layers",
               .help = "blocks that get adapters: all, first:K, last:K, or a list of these and of "
                       "numbers, from 0",
               .numbers = true},
        c.lora.layers);
  visit(
      Option{.key = "lora.rank_pattern",
             .help = "ranks of single modules, by expressions that end a module's path; the first "
                     "that matches counts",
             .min = 1,
             .max = 4096},
      c.lora.rank_pattern);
  visit(Option{.key = "lora.alpha_pattern",
               .help = "alphas of single modules, likewise",
               .max = 1e9,
               .above_min = true},
        c.lora.alpha_pattern);
  visit(Option{.key = "lora.rslora", .help = "scale by alpha/sqrt(rank)"}, c.lora.rslora);
  visit(Option{.key = "lora.dora",
               .help = "DoRA: train the length of each output's weights apart from their "
                       "direction"},
        c.lora.dora);
  visit(Option{.key = "lora.modules_to_save",
               .help = "matrices trained in full beside the adapters: the embedding, the head",
               .may_be_empty = true},
        c.lora.modules_to_save);
  visit(Option{.key = "lora.plus_ratio",
               .help = "LoRA+: the learning rate of B and of DoRA's magnitudes as a multiple of "
                       "A's",
               .min = 1,
               .max = 1e6},
        c.lora.plus_ratio);
  visit(Option{.key = "lora.plus_embedding_lr",
               .help = "LoRA+, where plus_ratio is not 1: highest learning rate of the embedding's "
                       "adapter, as in PEFT",
               .max = 100,
               .above_min = true},
        c.lora.plus_embedding_lr);
  visit(Option{.key = "lora.init_from",
               .help = "adapter folder to start from, with its settings; empty: a fresh adapter"},
        c.lora.init_from);

  visit(
      Option{.key = "optimizer.lr", .help = "highest learning rate", .max = 100, .above_min = true},
      c.optimizer.lr);
  visit(Option{.key = "optimizer.betas",
               .help = "AdamW's decay of the first and the second moment",
               .max = 1,
               .below_max = true},
        NumberPair{c.optimizer.beta1, c.optimizer.beta2});
  visit(Option{.key = "optimizer.eps", .help = "AdamW's epsilon", .max = 1, .above_min = true},
        c.optimizer.eps);
  visit(Option{.key = "optimizer.weight_decay", .help = "decoupled, as in AdamW", .max = 100},
        c.optimizer.weight_decay);
  visit(Option{.key = "optimizer.clip", .help = "highest global gradient norm; 0: no clipping"},
        c.optimizer.clip);

  visit(Option{.key = "schedule.name",
               .help = "course of the learning rate after the warm-up",
               .choices = {"cosine", "linear", "constant", "wsd"}},
        c.schedule.name);
  visit(Option{.key = "schedule.warmup",
               .help = "below 1: share of all steps; from 1 on: steps",
               .max = kMany},
        c.schedule.warmup);
  visit(Option{.key = "schedule.min_lr_ratio",
               .help = "last learning rate as a share of the highest",
               .max = 1},
        c.schedule.min_lr_ratio);

  visit(Option{.key = "train.epochs",
               .help = "passes over the data; max_steps may end them early",
               .max = 1e6},
        c.train.epochs);
  visit(Option{.key = "train.max_steps",
               .help = "optimizer steps; 0: as many as the epochs take",
               .max = kMany},
        c.train.max_steps);
  visit(Option{.key = "train.batch_size",
               .help = "rows of one optimizer step",
               .min = 1,
               .max = 1 << 20},
        c.train.batch_size);
  visit(Option{.key = "train.micro_batch_size",
               .help = "rows computed at once; their sum over a step is the batch",
               .min = 1,
               .max = 1 << 20},
        AutoInt{c.train.micro_batch_size});
  visit(Option{.key = "train.token_tile",
               .help = "tokens of one pass of a block's token-wise work",
               .min = 1,
               .max = 1 << 20},
        c.train.token_tile);

  visit(Option{.key = "memory.vram",
               .help = "budget on the device; on the CPU the size of an arena",
               .min = 1},
        AutoBytes{c.memory.vram_bytes});
  visit(Option{.key = "memory.ram",
               .help = "budget in host memory, on the CPU for everything: weights that it cannot "
                       "hold are read from disk when they are needed",
               .min = 1},
        AutoBytes{c.memory.ram_bytes});
  visit(Option{.key = "memory.residency",
               .help = "whether weights stay on the device or stream through it",
               .choices = {"auto", "stream", "resident"}},
        c.memory.residency);
  visit(Option{.key = "memory.slots",
               .help = "blocks that the ring of streamed weights holds, in RAM where weights are "
                       "used there",
               .min = 2,
               .max = 4096},
        AutoInt{c.memory.slots});
  visit(Option{.key = "memory.activations",
               .help = "what becomes of activations between forward and backward",
               .choices = {"auto", "keep", "recompute", "offload"}},
        c.memory.activations);
  visit(Option{.key = "memory.disk",
               .help = "how the model file is read: past the page cache, through it, or mapped",
               .choices = {"auto", "direct", "buffered", "mmap"}},
        c.memory.disk);

  visit(Option{.key = "guard.nonfinite",
               .help = "what to do with a step whose loss or gradient is not finite: end the run, "
                       "or leave it out",
               .choices = {"stop", "skip"}},
        c.guard.nonfinite);
  visit(Option{.key = "guard.spike_zscore",
               .help = "leave out steps whose loss lies so many standard deviations above those of "
                       "the last 50 or so; 0: none",
               .max = kMany},
        c.guard.spike_zscore);
  visit(Option{.key = "guard.max_skips",
               .help = "steps left out in a row; one more ends the run",
               .max = kMany},
        c.guard.max_skips);

  visit(Option{.key = "checkpoint.every_steps",
               .help = "steps between checkpoints; 0: at the end only",
               .max = kMany},
        c.checkpoint.every_steps);
  visit(
      Option{
          .key = "checkpoint.keep", .help = "newest checkpoints to keep", .min = 1, .max = kMany},
      c.checkpoint.keep);
  visit(Option{.key = "checkpoint.best",
               .help = "also keep the one of lowest evaluation loss; auto: with data.eval"},
        c.checkpoint.best);
  visit(Option{.key = "eval.every_steps",
               .help = "steps between evaluations; 0: at each checkpoint",
               .max = kMany},
        c.eval.every_steps);
  visit(
      Option{
          .key = "log.every_steps", .help = "steps between progress lines", .min = 1, .max = kMany},
      c.log.every_steps);
  visit(Option{.key = "log.trace",
               .help = "file for a Chrome trace of copies and compute (chrome://tracing, "
                       "Perfetto)"},
        c.log.trace);
}

}  // namespace lema
