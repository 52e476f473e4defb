// Offloading of boundary activations over the device-to-host queue, which LoRA training leaves
// idle.
#include "stream/saved_store.h"

#include <algorithm>

#include "core/error.h"

namespace lema {

SavedStore::SavedStore(Device& device, int64_t count, int64_t bytes_each, bool offload,
                       Trace* trace)
    : device_(device),
      count_(count),
      bytes_each_(stride(bytes_each)),
      offload_(offload && count > kStaging),
      trace_(trace) {
  device_buffer_ =
      device.allocate((offload_ ? kStaging : count) * bytes_each_, "boundary activations");
  if (!offload_) return;
  host_buffer_ =
      device.allocate_pinned((count - kStaging) * bytes_each_, "offloaded boundary activations");
  for (int64_t s = 0; s < kStaging; ++s) {
    for (std::vector<Event>* events : {&produced_, &stored_, &loaded_, &used_})
      events->push_back(device.create_event());
    holds_.push_back(-1);
    storing_.push_back(false);
    loading_.push_back(false);
  }
}

std::byte* SavedStore::begin_write(int64_t i) {
  if (!offload_) return device_buffer_.data() + i * bytes_each_;
  const size_t s = stage(i);
  if (storing_[s])
    device_.wait(Queue::Compute, stored_[s]);  // its last occupant is still being read out
  if (loading_[s]) device_.wait(Queue::Compute, loaded_[s]);  // fetched and never read
  holds_[s] = i;
  storing_[s] = loading_[s] = false;
  return staging(i);
}

void SavedStore::finish_write(int64_t i, int64_t bytes) {
  if (!offload_ || i >= count_ - kStaging) return;
  const size_t s = stage(i);
  device_.record(produced_[s], Queue::Compute);
  device_.wait(Queue::D2H, produced_[s]);
  {
    const Trace::Span span(trace_, Queue::D2H, fmt::format("boundary {}", i), bytes);
    device_.copy_async(Queue::D2H, host_buffer_.data() + i * bytes_each_, staging(i), bytes);
  }
  device_.record(stored_[s], Queue::D2H);
  storing_[s] = true;
  d2h_bytes_ += bytes;
}

std::byte* SavedStore::begin_read(int64_t i, int64_t lowest, int64_t bytes) {
  if (!offload_) return device_buffer_.data() + i * bytes_each_;
  const size_t s = stage(i);
  if (holds_[s] != i) fetch(i, bytes);
  if (loading_[s]) device_.wait(Queue::Compute, loaded_[s]);
  loading_[s] = false;
  // Work on boundary i + 1, in whose staging buffer i - 2 comes, has been submitted.
  for (int64_t next = i - 1; next >= std::max(lowest, i - 2); --next)
    if (holds_[stage(next)] != next) fetch(next, bytes);
  return staging(i);
}

void SavedStore::fetch(int64_t i, int64_t bytes) {
  const size_t s = stage(i);
  check(holds_[s] < 0 || holds_[s] > i, "boundary {} is fetched over boundary {}", i, holds_[s]);
  // The staging buffer must be out of use. The host copy is complete by then: boundary i + 3 took
  // this buffer in the forward pass, and Compute waited for the copy before it wrote that.
  device_.record(used_[s], Queue::Compute);
  device_.wait(Queue::H2D, used_[s]);
  {
    const Trace::Span span(trace_, Queue::H2D, fmt::format("boundary {}", i), bytes);
    device_.copy_async(Queue::H2D, staging(i), host_buffer_.data() + i * bytes_each_, bytes);
  }
  device_.record(loaded_[s], Queue::H2D);
  holds_[s] = i;
  storing_[s] = false;
  loading_[s] = true;
  h2d_bytes_ += bytes;
}

}  // namespace lema
