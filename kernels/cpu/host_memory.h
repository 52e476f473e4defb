// Page-aligned host memory with one owner: behind the CPU device's buffers and the CPU kernels'
// scratch.
#pragma once

#include <cstdint>
#include <string_view>

namespace lema::cpu {

// What of a mapping is resident at once. Pages of 2 MiB cost a row of a matrix no page walk, and a
// disk that reads into them asks for much at a time; but a virtual machine that hands free memory
// back does so in large blocks, and 2 MiB of one then cost ten times what small pages do.
enum class Commit {
  Nothing,  // where it is touched, in pages of 2 MiB
  Small,    // all, in small pages, which the kernel joins in time
  Huge      // all, in pages of 2 MiB
};

// Anonymous mapping of `bytes` (rounded up to pages), zero until written; never null. DoesNotFit
// names `label` and the bytes.
void* map_memory(int64_t bytes, std::string_view label, Commit commit);
void unmap_memory(void* data, int64_t bytes) noexcept;

// Scratch that lives as long as its owner; neither copied nor moved.
class HostMemory {
 public:
  HostMemory(int64_t bytes, std::string_view label)
      : data_(map_memory(bytes, label, Commit::Small)), bytes_(bytes) {}
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
