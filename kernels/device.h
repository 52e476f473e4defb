// Device: memory, queues and events. The streaming code knows a device only through this; Ops does
// the arithmetic. Implementations: cpu/device.cpp, cuda/device.cu.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "core/dtype.h"

namespace lema {

// Work submitted to one queue runs in order; queues run beside each other and meet through events.
enum class Queue { Compute, H2D, D2H };

// A point in a queue's work. Small value; the device owns what is behind it and lives longer.
struct Event {
  int32_t id = -1;
};

class Device;

// Bytes with one owner. Move-only; the destructor frees and never throws.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Device* device, void* data, int64_t bytes, bool pinned)
      : device_(device), data_(data), bytes_(bytes), pinned_(pinned) {}
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  ~Buffer();
  std::byte* data() const { return static_cast<std::byte*>(data_); }
  int64_t bytes() const { return bytes_; }

 private:
  Device* device_ = nullptr;
  void* data_ = nullptr;
  int64_t bytes_ = 0;
  bool pinned_ = false;
};

class Device {
 public:
  virtual ~Device() = default;
  // "cpu", or the GPU's name.
  virtual std::string name() const = 0;
  // What the bits of its kernels hang on beside their arguments: instruction set, libraries.
  virtual std::string arithmetic() const = 0;
  // True where kernels read host memory at full speed, so weights may be used where they lie (the
  // CPU).
  virtual bool reads_host_memory() const = 0;
  // True where copies and gathers need weights in page-locked memory: a GPU.
  virtual bool needs_pinned_weights() const { return false; }
  // Bytes that allocations may take, 0 where that is no limit: the CPU.
  virtual int64_t free_bytes() const { return 0; }
  // Bytes of its memory in use, by anyone and for anything, as the driver counts them; 0 where
  // there is no driver: the CPU.
  virtual int64_t used_bytes() const { return 0; }
  // The activation dtype that suits the device, for weights stored as `stored`.
  virtual DType preferred_activation(DType stored) const = 0;

  // Allocations from here on take their memory at once, not page by page at its first use: what a
  // plan has counted is held before work starts. Devices that always do need not know.
  virtual void commit_allocations() {}

  // Memory of the device, 256-byte aligned, or page-locked memory of the host, 4096-byte aligned;
  // contents undefined. DoesNotFit names `label` and the bytes.
  virtual Buffer allocate(int64_t bytes, std::string_view label) = 0;
  virtual Buffer allocate_pinned(int64_t bytes, std::string_view label) = 0;

  // What may be allocated in all, of either kind; more is DoesNotFit.
  virtual void set_limits(int64_t bytes, int64_t pinned_bytes);

  // Asynchronous; both sides stay valid and unchanged until an event recorded after it on `queue`
  // is complete.
  virtual void copy_async(Queue queue, void* to, const void* from, int64_t bytes) = 0;

  virtual Event create_event() = 0;
  // An event that also keeps the time at which it was reached.
  virtual Event create_timer() = 0;
  // Milliseconds from one timer to another, both reached since they were last recorded.
  virtual double elapsed_ms(Event from, Event to) = 0;
  // The event stands for all work submitted to `queue` so far; recording again moves it.
  virtual void record(Event event, Queue queue) = 0;
  // Later work of `queue` starts after the event's last recording is complete. Asynchronous.
  // Waiting on an event that was never recorded does nothing, so record() must have been called
  // before.
  virtual void wait(Queue queue, Event event) = 0;
  // Blocks the host until the event, or all work of a queue, is complete. Faults of asynchronous
  // work surface here.
  virtual void synchronize(Event event) = 0;
  virtual void synchronize(Queue queue) = 0;

  // Number of allocate and allocate_pinned calls so far; flat during steps.
  int64_t allocation_count() const { return allocation_count_; }

 protected:
  // A buffer of what map() makes, counted and within the limits. May be called by any thread.
  template <typename Map>
  Buffer counted(int64_t bytes, std::string_view label, bool pinned, const Map& map) {
    const std::lock_guard lock(mutex_);
    check_limit(bytes, label, pinned);
    void* data = map();
    allocated_[pinned] += bytes;
    ++allocation_count_;
    return Buffer(this, data, bytes, pinned);
  }
  void uncount(int64_t bytes, bool pinned) noexcept;

  int64_t allocation_count_ = 0;

 private:
  friend class Buffer;
  virtual void deallocate(void* data, int64_t bytes, bool pinned) noexcept = 0;
  void check_limit(int64_t bytes, std::string_view label, bool pinned) const;

  std::mutex mutex_;
  std::array<int64_t, 2> allocated_ = {}, limit_ = {INT64_MAX, INT64_MAX};  // [pinned]
};

std::unique_ptr<Device> make_cpu_device();
// Usage error, which says why, where the GPU of that number cannot be used.
std::unique_ptr<Device> make_cuda_device(int ordinal);
// 0 where CUDA is not built or there is no driver.
int cuda_device_count();
bool cuda_is_built();

}  // namespace lema
