// Checkpoints of a run: what they hold, written by the commit protocol and read for --resume. The
// folders themselves are run_folder.h's.
//
//   output_dir/checkpoint-000500/  adapter_config.json  adapter_model.safetensors  README.md   the
//   PEFT adapter
//                                  chat_template.jinja where it is not the model's own
//                                  state.safetensors   moment1, moment2 (parameters) F32
//                                  state.json          see to_value(TrainState); guard, with
//                                                      compute f16 loss_scale, as of their to_value
//                                  manifest.json       last: sizes and CRC32C of the others
//   output_dir/last -> checkpoint-000500, output_dir/best -> checkpoint-000300
//   output_dir/checkpoint-000500.abandoned   set aside by a run that went on from an earlier one
#pragma once

#include <functional>
#include <optional>
#include <set>
#include <string>

#include "data/model_text.h"
#include "train/trainer.h"

namespace lema {

// Everything besides the adapter and the moments that a resumed run needs.
struct TrainState {
  int64_t step = 0;  // updates done
  BatchCursor cursor;
  int64_t tokens_seen = 0;
  std::optional<double> best_eval_loss;  // lowest at a checkpoint
  int64_t best_step = 0;                 // that checkpoint's
  bool owes_evaluation = false;  // after this step: a stop came before it was done
  std::string run_id;            // random, of the run's first start
};

// What must not change between the runs that a checkpoint joins.
struct RunIdentity {
  Value numeric_plan;
  std::string model_sha256;  // of config.json and every tensor's name, dtype, shape and place
  std::string weights_crc32c;  // of each file of tensors, in the folder's order
  std::string data_sha256;   // of the training file
  std::string text_sha256;   // ModelText::fingerprint(): tokenizer, templates, stop ids
  Value config;              // settings that steer the result; of other files their contents' hash
};
// All but the weights' checksum.
RunIdentity run_identity(const RunConfig& config, const ModelFolder& folder,
                         const std::string& text_fingerprint, const NumericPlan& numeric);
// One pass over the model, of which a step makes two; check() between its chunks may throw.
std::string weights_checksum(const ModelFolder& folder, const std::function<void()>& check);

// Writes checkpoint-STEP below output_dir and returns its folder: room for it made sure of, staged,
// synced, renamed, read back. chat_template: what ModelText::adapter_template() says, "" for none.
// Io on failure, with nothing half-written. Moves `last`. replaces: in the place of an older one of
// that step, which stands until then.
fs::path save_checkpoint(const fs::path& output_dir, Trainer& trainer, const TrainState& state,
                         const RunIdentity& identity, const std::string& base_model,
                         const std::string& chat_template, bool replaces = false);
// Bytes that it takes, generously.
int64_t checkpoint_bytes(Trainer& trainer);

// Restores adapter and moments and returns the rest. Usage error when the checkpoint is of another
// run's arithmetic, naming what differs, by config key, unless its kind is accepted: model, data,
// text, config, plan (the numeric one). Of an adapter of lora.init_from whose files are gone,
// identity takes what the checkpoint says.
TrainState load_checkpoint(const fs::path& checkpoint, Trainer& trainer, RunIdentity& identity,
                           const std::set<std::string>& accepted);
// RunIdentity::config of the run that wrote a checkpoint. BadInput.
Value saved_config(const fs::path& checkpoint);

}  // namespace lema
