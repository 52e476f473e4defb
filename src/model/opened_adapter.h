// An adapter folder opened for one model: read, held against its own config, and rid of the copies
// of base weights that PEFT stores beside adapted or resized embeddings and heads. train, chat,
// eval and merge open adapters here.
#pragma once

#include "formats/hf_model.h"
#include "formats/peft_adapter.h"
#include "layout/fields.h"

namespace lema {

// What read_adapter and the checks of adapter_rules.h give. A copy that equals the model's weight,
// rounded to the copy's type, is forgotten. An embedding or a head of the model's shape with other
// values takes the base's place, as PEFT loads it: it is in `full` and named in `own_base`; in a
// model that ties them it is both. BadInput, naming file and tensor, for a copy of another shape
// (both are said), for any other copy that differs, and for one of no weight that is read.
// Ref: peft.utils.save_and_load.get_peft_model_state_dict, save_embedding_layers.
Adapter open_adapter(const fs::path& path, const ModelFolder& folder, const ModelSpec& spec);

}  // namespace lema
