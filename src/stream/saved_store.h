// SavedStore: the activations at block boundaries, from the forward pass to the backward pass. On
// the device, or in pinned host memory behind a staging ring of three buffers (offload). The last
// three never leave the ring: backward reads them first.
#pragma once

#include <vector>

#include "device.h"
#include "stream/trace.h"

namespace lema {

class SavedStore {
 public:
  static constexpr int64_t kStaging = 3;  // buffers of the ring
  // What a tensor takes of a buffer.
  static constexpr int64_t stride(int64_t bytes) { return (bytes + 63) / 64 * 64; }

  // `count` boundaries of at most `bytes_each` bytes. `trace` may be null.
  SavedStore(Device& device, int64_t count, int64_t bytes_each, bool offload,
             Trace* trace = nullptr);

  // Where boundary i is produced; earlier contents are gone. Forward order: 0, 1, ..., count - 1;
  // boundary i - 1 stays readable while i is written.
  std::byte* begin_write(int64_t i);
  // Boundary i is complete in the compute queue's order; `bytes` of it are in use.
  void finish_write(int64_t i, int64_t bytes);

  // Boundary i for reading, in descending order down to `lowest` after all `count` were written.
  // Also asks for the next two, as far ahead as the ring has buffers for.
  std::byte* begin_read(int64_t i, int64_t lowest, int64_t bytes);

  int64_t d2h_bytes() const { return d2h_bytes_; }  // copied so far
  int64_t h2d_bytes() const { return h2d_bytes_; }

 private:
  size_t stage(int64_t i) const { return static_cast<size_t>(i % kStaging); }
  std::byte* staging(int64_t i) const {
    return device_buffer_.data() + (i % kStaging) * bytes_each_;
  }
  void fetch(int64_t i, int64_t bytes);

  Device& device_;
  int64_t count_, bytes_each_;
  bool offload_;
  Trace* trace_;
  Buffer device_buffer_, host_buffer_;
  std::vector<Event> produced_, stored_, loaded_, used_;  // per staging buffer
  std::vector<int64_t> holds_;           // boundary in each staging buffer, -1: none
  std::vector<bool> storing_, loading_;  // a copy out of it, into it, may be under way
  int64_t d2h_bytes_ = 0, h2d_bytes_ = 0;
};

}  // namespace lema
