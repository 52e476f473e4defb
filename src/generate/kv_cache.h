// KvCache: keys and values of every block for a fixed number of sequences, in one allocation, and
// the ids they belong to. Owned by Inference; the blocks write and read it through KvCacheView.
#pragma once

#include <cstdint>
#include <vector>

#include "device.h"
#include "formats/hf_model.h"
#include "ops.h"

namespace lema {

class KvCache {
 public:
  // Room for `capacity` tokens of each of `sequences`, in the activation dtype X. Every page is
  // touched here, so memory stays flat while tokens come.
  KvCache(Device& device, Ops& ops, const ModelConfig& config, DType X, int64_t sequences,
          int64_t capacity);

  // Rows of [k | v] of one block: (sequences * capacity, 2 Hkv D) X.
  MatrixView block(int64_t block) const;
  int64_t row(int64_t sequence, int64_t position) const { return sequence * capacity_ + position; }

  // The tokens whose keys and values a sequence holds; the position of a token is its index.
  const std::vector<int32_t>& ids(int64_t sequence) const {
    return ids_[static_cast<size_t>(sequence)];
  }
  // For each token the length of the sequence that its key was rotated for (RopeTable::map).
  const std::vector<int32_t>& lengths(int64_t sequence) const {
    return lengths_[static_cast<size_t>(sequence)];
  }
  // Books one more token; Internal when the sequence is full. Returns its position.
  int64_t push(int64_t sequence, int32_t id, int64_t length);
  // Keeps the first `length` tokens.
  void truncate(int64_t sequence, int64_t length);

  int64_t sequences() const { return static_cast<int64_t>(ids_.size()); }
  int64_t capacity() const { return capacity_; }
  int64_t bytes() const { return buffer_.bytes(); }

 private:
  int64_t capacity_, width_;
  DType X_;
  std::vector<std::vector<int32_t>> ids_, lengths_;
  Buffer buffer_;
};

}  // namespace lema
