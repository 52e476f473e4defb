// Reading in the order in which it costs memory.
#include "train/run_inputs.h"

#include "core/log.h"
#include "core/memory.h"
#include "data/model_text.h"
#include "formats/peft_adapter.h"

namespace lema {
namespace {

// The template that the run's conversations are written by, "" for the model's own: the one that is
// set, else what the adapter brings along that the run goes on from.
std::string run_template(const RunConfig& config, const fs::path& checkpoint) {
  const fs::path adapter = checkpoint.empty() ? fs::path(config.lora.init_from) : checkpoint;
  const auto brought = adapter.empty() ? std::nullopt : adapter_template(adapter);
  if (!brought) return config.data.chat_template;
  if (config.data.chat_template.empty()) {
    log::info("{}: the run's chat template", brought->string());
    return brought->string();
  }
  if (checkpoint.empty())
    log::warn("{} was trained with {}; this run takes data.chat_template {}", config.lora.init_from,
              brought->string(), config.data.chat_template);
  return config.data.chat_template;
}

}  // namespace

RunInputs::RunInputs(const RunConfig& config, const fs::path& checkpoint) : folder(config.model) {
  {
    const ModelText text = load_model_text(folder, run_template(config, checkpoint),
                                           Value(Value::Object(config.data.chat_template_kwargs)));
    text_fingerprint = text.fingerprint();
    chat_template = text.adapter_template();
    std::vector<std::string> files = lema::data_files(config.data.train);
    if (!config.data.eval.empty())
      for (std::string& file : lema::data_files(config.data.eval)) files.push_back(std::move(file));
    data_files = FileStamps(files);
    data = prepare_data(config.data, cache_folder(config.data, config.output_dir), text);
  }
  return_freed_memory();
}

}  // namespace lema
