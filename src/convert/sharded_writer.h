// ShardedWriter: a model's weights as model.safetensors, or as shards with an index. What convert
// and merge write to.
//
//   FOLDER/model.safetensors                          when all weights fit one shard, else
//   FOLDER/model-00001-of-0000N.safetensors ...       whole weights, in the order given
//   FOLDER/model.safetensors.index.json
//     {"metadata": {"total_size": BYTES}, "weight_map": {NAME: FILE}}
#pragma once

#include <optional>
#include <vector>

#include "formats/safetensors.h"

namespace lema {

class ShardedWriter {
 public:
  // `shard_bytes` bounds the tensor bytes of a shard (a larger tensor has one of its own); 0: one
  // file. The data of each file starts at a multiple of 4096.
  ShardedWriter(fs::path folder, std::vector<TensorSpec> tensors, Metadata metadata,
                int64_t shard_bytes);

  const std::vector<TensorSpec>& tensors() const { return tensors_; }
  int64_t total_bytes() const { return total_bytes_; }
  size_t shard_count() const { return shards_.size(); }

  // Appends bytes of the next tensor; a call never spans two tensors.
  void write(const void* data, int64_t bytes);
  // After the last byte: completes the last file and writes the index.
  void finish();

 private:
  struct Shard {
    size_t begin = 0, end = 0;  // tensors
    int64_t bytes = 0;
  };
  std::string file_name(size_t shard) const;
  void open_next();
  void write_index() const;

  fs::path folder_;
  std::vector<TensorSpec> tensors_;
  Metadata metadata_;
  std::vector<Shard> shards_;
  int64_t total_bytes_ = 0;
  std::optional<SafetensorsWriter> file_;  // of shard next_ - 1
  size_t next_ = 0;
  int64_t remaining_ = 0;  // bytes that the open file lacks
};

}  // namespace lema
