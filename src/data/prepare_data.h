// The data of a run: what its config's data section names, through the cache, with the evaluation
// rows taken out. Called by `lema train` and `lema data`.
#pragma once

#include <optional>

#include "data/dataset.h"

namespace lema {

struct PreparedData {
  Dataset train;
  std::optional<Dataset> eval;
};

// Loads data.train and data.eval, or takes data.eval_fraction of the training rows: a row goes by
// its content, whatever its place in the files, and repeats stay together. At least one content is
// evaluated.
// cache: a folder, "" for none. Errors as of load_dataset; Usage for both kinds of evaluation rows
// at once, BadInput when the fraction leaves one side without rows.
PreparedData prepare_data(const RunConfig::Data& options, const fs::path& cache,
                          const ModelText& text);

// What data.cache says for a run whose folder is output_dir: "" for none.
fs::path cache_folder(const RunConfig::Data& options, const fs::path& output_dir);

// The skipped rows as JSON lines {"reason", "text"} in `path`; nothing is written when there is
// none.
void write_bad_rows(const PreparedData& data, const fs::path& path);

}  // namespace lema
