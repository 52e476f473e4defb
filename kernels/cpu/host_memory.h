// Page-aligned host memory with one owner: behind the CPU device's buffers and the CPU kernels'
// scratch.
#pragma once

#include <cstdint>
#include <string_view>

namespace lema::cpu {

// Anonymous mapping of `bytes` (rounded up to pages), zero until written; never null. Resident at
// once with `commit`, else only where it is touched. DoesNotFit names `label` and the bytes.
void* map_memory(int64_t bytes, std::string_view label, bool commit);
void unmap_memory(void* data, int64_t bytes) noexcept;

// Scratch that lives as long as its owner; neither copied nor moved.
class HostMemory {
 public:
  HostMemory(int64_t bytes, std::string_view label)
      : data_(map_memory(bytes, label, true)), bytes_(bytes) {}
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;
  ~HostMemory() { unmap_memory(data_, bytes_); }
  float* floats() const { return static_cast<float*>(data_); }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_;
  int64_t bytes_;
};

}  // namespace lema::cpu
