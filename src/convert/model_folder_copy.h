// What convert and merge share besides the weights: where they may write, in which order a model's
// tensors lie, and the files beside the weights.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "convert/weight_copy.h"
#include "formats/hf_model.h"
#include "layout/fields.h"

namespace lema {

// `output` without trailing slash or dot parts. Usage error when it exists, or equals or lies
// inside one of `inputs`.
fs::path output_folder(const fs::path& output, std::span<const fs::path> inputs);

// Every weight of a model in the order of the model file: embedding, positions, blocks with their
// pieces in order, final norm, head unless it is the embedding.
std::vector<const FieldSpec*> model_file_order(const ModelSpec& spec);

// Those weights of a folder whose tensors have been checked against `spec`. Borrows both.
std::vector<WeightSource> folder_weights(const ModelFolder& folder, const ModelSpec& spec);

// One TensorSpec a weight; of type `dtype` when given.
std::vector<TensorSpec> output_tensors(std::span<const WeightSource> weights,
                                       std::optional<DType> dtype);

// Tokenizer, templates, generation_config.json and licence byte for byte; config.json byte for byte
// but for the value of its "dtype" or "torch_dtype", which becomes `dtype` when that is given.
void copy_side_files(const ModelFolder& folder, const fs::path& to, std::optional<DType> dtype);

// Makes the chat template that an adapter brings along, if any, the only one of the written folder,
// and the tokens that it ends turns with stop ids there.
void take_template(const fs::path& adapter, const ModelFolder& folder, const fs::path& to);

// The text of a config.json with only that value replaced, where it has one.
std::string config_with_dtype(const std::string& text, DType dtype, const std::string& source);

// "bfloat16", "float16", "float32".
std::string_view torch_name(DType dtype);

}  // namespace lema
