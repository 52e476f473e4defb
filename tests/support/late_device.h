// LateDevice: the CPU device with the timing of a GPU. A copy on a copy queue fills its target with
// NaN at once and brings the bytes only when something waits for it; so a missing wait shows as
// NaN, an early release or a source that is overwritten too soon shows as wrong bits.
#pragma once

#include <cstring>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "device.h"

namespace lema::test {

class LateDevice final : public Device {
 public:
  // With `in_place` weights may be used where they are mapped, as on the CPU; else every weight is
  // copied, as on a GPU.
  explicit LateDevice(bool in_place = false) : cpu_(make_cpu_device()), in_place_(in_place) {}

  std::string name() const override { return cpu_->name(); }
  bool reads_host_memory() const override { return in_place_; }
  Buffer allocate(int64_t bytes, std::string_view label) override {
    return counted(cpu_->allocate(bytes, label));
  }
  Buffer allocate_pinned(int64_t bytes, std::string_view label) override {
    return counted(cpu_->allocate_pinned(bytes, label));
  }

  void copy_async(Queue queue, void* to, const void* from, int64_t bytes) override {
    if (queue == Queue::Compute) {
      std::memcpy(to, from, static_cast<size_t>(bytes));
      return;
    }
    std::memset(to, 0xff, static_cast<size_t>(bytes));  // NaN in every float format
    pending(queue).push_back({to, from, bytes});
    ++submitted(queue);
  }

  Event create_event() override {
    points_.push_back({});
    return {static_cast<int32_t>(points_.size()) - 1};
  }
  void record(Event event, Queue queue) override { point(event) = {queue, submitted(queue), true}; }
  void wait(Queue, Event event) override { complete(event); }
  void synchronize(Event event) override { complete(event); }
  void synchronize(Queue queue) override { run_until(queue, submitted(queue)); }

 private:
  struct Copy {
    void* to;
    const void* from;
    int64_t bytes;
  };
  struct Point {
    Queue queue = Queue::Compute;
    int64_t submitted = 0;
    bool recorded = false;
  };

  void deallocate(void*, bool) noexcept override {}  // buffers belong to the inner device
  Buffer counted(Buffer buffer) {
    ++allocation_count_;
    return buffer;
  }
  std::deque<Copy>& pending(Queue queue) { return pending_[static_cast<size_t>(queue)]; }
  int64_t& submitted(Queue queue) { return submitted_[static_cast<size_t>(queue)]; }
  Point& point(Event event) { return points_[static_cast<size_t>(event.id)]; }

  // Waiting on an event that was never recorded does nothing, as on CUDA.
  void complete(Event event) {
    if (point(event).recorded) run_until(point(event).queue, point(event).submitted);
  }
  void run_until(Queue queue, int64_t count) {
    auto& copies = pending(queue);
    while (submitted(queue) - static_cast<int64_t>(copies.size()) < count) {
      std::memcpy(copies.front().to, copies.front().from,
                  static_cast<size_t>(copies.front().bytes));
      copies.pop_front();
    }
  }

  std::unique_ptr<Device> cpu_;
  bool in_place_;
  std::deque<Copy> pending_[3];
  int64_t submitted_[3] = {0, 0, 0};
  std::vector<Point> points_;
};

}  // namespace lema::test
