// Layout and bookkeeping of the cache.
#include "generate/kv_cache.h"

namespace lema {

KvCache::KvCache(Device& device, Ops& ops, const ModelConfig& config, DType X, int64_t sequences,
                 int64_t capacity)
    : capacity_(capacity),
      width_(2 * config.Hkv * config.D),
      X_(X),
      ids_(static_cast<size_t>(sequences)),
      lengths_(static_cast<size_t>(sequences)) {
  const int64_t elements = config.L * sequences * capacity * width_;
  buffer_ = device.allocate(elements * element_bytes(X), "key-value cache");
  ops.fill({buffer_.data(), X, {elements}}, 0);
  for (auto* lists : {&ids_, &lengths_})
    for (std::vector<int32_t>& list : *lists) list.reserve(static_cast<size_t>(capacity));
}

MatrixView KvCache::block(int64_t block) const {
  const int64_t rows = sequences() * capacity_;
  return {buffer_.data() + block * rows * width_ * element_bytes(X_), X_, rows, width_};
}

int64_t KvCache::push(int64_t sequence, int32_t id, int64_t length) {
  std::vector<int32_t>& ids = ids_.at(static_cast<size_t>(sequence));
  check(std::ssize(ids) < capacity_, "sequence {} of the key-value cache is full at {} tokens",
        sequence, capacity_);
  ids.push_back(id);
  lengths_.at(static_cast<size_t>(sequence)).push_back(static_cast<int32_t>(length));
  return std::ssize(ids) - 1;
}

void KvCache::truncate(int64_t sequence, int64_t length) {
  std::vector<int32_t>& ids = ids_.at(static_cast<size_t>(sequence));
  check(length >= 0 && length <= std::ssize(ids), "{} of {} cached tokens are kept", length,
        ids.size());
  ids.resize(static_cast<size_t>(length));
  lengths_.at(static_cast<size_t>(sequence)).resize(static_cast<size_t>(length));
}

}  // namespace lema
