// DatasetCache: tokenised data sets on disk, so that a second run on the same data starts at once.
// Called by prepare_data; a cache that cannot be used is never an error.
//
// A file's name is the SHA-256 of all that its content depends on: the bytes of every data file in
// their order, ModelText::fingerprint(), the data options and this binary. So no file is ever out
// of date, and a folder of them may be deleted at any time.
// File: "lemadata", u32 version, u32 CRC-32C of the rest, then a body of little-endian integers.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "data/dataset.h"

namespace lema {

// The key of a data set; "" where nothing may be cached: a fingerprint is missing, or the template
// can write the date.
// BadInput when a file cannot be read.
std::string dataset_key(const std::vector<std::string>& paths, const RunConfig::Data& options,
                        const ModelText& text);

// nullopt when there is none, or a damaged one (which is said and will be replaced). `paths` as at
// load_dataset: the files' names are taken from there.
std::optional<Dataset> read_cached(const fs::path& folder, const std::string& key,
                                   const std::vector<std::string>& paths);

// Written beside and renamed. Data sets with bad rows are not kept: each run names them anew. A
// folder that cannot be written is warned of.
void write_cached(const fs::path& folder, const std::string& key, const Dataset& dataset);

}  // namespace lema
