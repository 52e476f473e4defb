// The adapter that a run starts from (lora.init_from), and what it says about the run's settings.
// Called by the run before it opens a backend.
#pragma once

#include <optional>

#include "formats/hf_model.h"
#include "formats/peft_adapter.h"
#include "formats/run_config.h"
#include "model/adapter_parameters.h"

namespace lema {

// The fresh adapter that the settings describe.
AdapterOptions adapter_options(const RunConfig::Lora& lora);

// Opens the adapter of lora.init_from for the model; nullopt without one. Rank, alpha, patterns,
// targets, rslora, dora, modules_to_save and dropout of the config become the adapter's where the
// config does not state them; a stated dropout counts. Usage error, naming both values, where a
// stated one contradicts the adapter. BadInput as open_adapter, and for an adapter with an
// embedding or head of its own that it does not train.
std::optional<Adapter> open_init_adapter(RunConfig& config, const ModelFolder& folder);

// The same for a run that goes on from a checkpoint: the checkpoint's own adapter, and the settings
// that its run took; the files of lora.init_from need not be there any more. BadInput as
// open_adapter.
std::optional<Adapter> open_resumed_adapter(RunConfig& config, const ModelFolder& folder,
                                            const fs::path& checkpoint);

}  // namespace lema
