// Options that several commands take.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "core/dtype.h"
#include "generate/opened_model.h"

namespace lema {

// --dtype bf16|f16|f32.
void add_float_dtype(CLI::App& command, const std::string& help);
// nullopt when it was not given.
std::optional<DType> float_dtype(const CLI::App& command);

// --model, --adapter, --compute, --threads and --chat-template of the commands that run a model.
void add_model_options(CLI::App& command);
// All of them but --model and --chat-template.
OpenOptions open_options(const CLI::App& command);

}  // namespace lema
