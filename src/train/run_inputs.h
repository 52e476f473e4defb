// RunInputs: what a run reads before it plans: the model folder, its data as token ids, and what a
// checkpoint must say of the model's text. Held by the training loop and by `lema plan`.
#pragma once

#include <string>

#include "core/file_stamps.h"
#include "data/prepare_data.h"
#include "formats/hf_model.h"

namespace lema {

struct RunInputs {
  // checkpoint: that the run goes on from, "" for a fresh run. BadInput and Usage as of
  // ModelFolder, load_model_text and prepare_data. What tokenizer and template held goes back to
  // the system.
  RunInputs(const RunConfig& config, const fs::path& checkpoint);

  ModelFolder folder;
  std::string text_fingerprint;
  std::string chat_template;  // that the adapter brings along, "" for the model's own
  PreparedData data;
  FileStamps data_files;  // as they were when they were read
};

}  // namespace lema
