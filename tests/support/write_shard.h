// A file of a sharded model. Used by the tests and the fuzz target of the shard index.
#pragma once

#include <string>
#include <vector>

#include "formats/safetensors.h"

namespace lema::test {

// Tensors of two zeros in f32 each.
inline void write_shard(const fs::path& path, const std::vector<std::string>& names) {
  std::vector<TensorSpec> specs;
  for (const std::string& name : names) specs.push_back({name, DType::F32, {2}});
  SafetensorsWriter writer(path, specs, {});
  const std::string zeros(names.size() * 8, '\0');
  writer.write(zeros.data(), static_cast<int64_t>(zeros.size()));
  writer.finish();
}

}  // namespace lema::test
