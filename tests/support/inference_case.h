// A tiny model in a folder of its own and ids to feed it, for tests of inference on the CPU and on
// a GPU.
#pragma once

#include <string_view>
#include <vector>

#include "core/file.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"

namespace lema::test {

// Positions beyond the usual 128 where asked for (Llama only).
struct TinyModel {
  TempFolder temp;
  ModelFolder folder;
  TinyModel(std::string_view name, const TinyModelOptions& options, int64_t positions = 0)
      : temp(name), folder(written(temp.path() / "model", options, positions)) {}
  static fs::path written(const fs::path& path, const TinyModelOptions& options,
                          int64_t positions) {
    write_tiny_model(path, options);
    if (positions == 0) return path;
    Value config = parse_json(read_text(path / "config.json", 1 << 20), "config.json");
    config.set("max_position_embeddings", positions);
    write_file(path / "config.json", dump_json(config));
    return path;
  }
};

inline std::vector<int32_t> ids_from(int64_t seed, int64_t count) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i)
    ids.push_back(
        static_cast<int32_t>((seed * 7919 + i * i * 31 + i * 17) % testing::kTinyVocabulary));
  return ids;
}

// One row for each list of ids, all trained but the first of each.
inline Dataset dataset_of(const std::vector<std::vector<int32_t>>& rows) {
  Dataset dataset;
  for (const std::vector<int32_t>& ids : rows) {
    const int64_t line = std::ssize(dataset.rows) + 1;
    dataset.rows.push_back({ids, std::vector<uint8_t>(ids.size(), 1), line});
    dataset.rows.back().trained[0] = 0;
    dataset.tokens += std::ssize(ids);
    dataset.longest_row_tokens = std::max(dataset.longest_row_tokens, std::ssize(ids));
  }
  return dataset;
}

}  // namespace lema::test
