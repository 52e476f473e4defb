// LateDevice: the CPU device with the timing of a GPU. A copy on a copy queue fills its target with
// NaN at once and brings the bytes only when something waits for it; so a missing wait shows as
// NaN, an early release or a source that is overwritten too soon shows as wrong bits. Kernels run
// at once; a copy that should have waited for them and did not, which vector clocks find, brings
// NaN.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "device.h"

namespace lema::test {

// The waits of one queue on events of another, which a control arm leaves out to see a test fail.
struct WaitsOf {
  Queue queue, on;
};

class LateDevice final : public Device {
 public:
  // With `in_place` weights may be used where they are mapped, as on the CPU; else every weight is
  // copied, as on a GPU.
  explicit LateDevice(bool in_place = false, std::optional<WaitsOf> forgotten = {})
      : cpu_(make_cpu_device()), in_place_(in_place), forgotten_(forgotten) {}

  std::string name() const override { return cpu_->name(); }
  std::string arithmetic() const override { return cpu_->arithmetic(); }
  bool reads_host_memory() const override { return in_place_; }
  DType preferred_activation(DType stored) const override {
    return cpu_->preferred_activation(stored);
  }
  Buffer allocate(int64_t bytes, std::string_view label) override {
    allocated_bytes_ += bytes;
    Buffer buffer = noted(cpu_->allocate(bytes, label));
    if (label == "weight ring") ring_ = {buffer.data(), static_cast<size_t>(bytes)};
    return buffer;
  }
  Buffer allocate_pinned(int64_t bytes, std::string_view label) override {
    pinned_bytes_ += bytes;
    return noted(cpu_->allocate_pinned(bytes, label));
  }
  void set_limits(int64_t bytes, int64_t pinned) override { cpu_->set_limits(bytes, pinned); }
  // Then it is a GPU to a plan: of so much free memory, with weights to be page-locked.
  void set_free_bytes(int64_t bytes) { free_bytes_ = bytes; }
  int64_t free_bytes() const override { return free_bytes_; }
  bool needs_pinned_weights() const override { return free_bytes_ > 0; }
  // A control arm: what is copied into a slot of the ring, of that many, arrives in each.
  void alias_slots(int64_t slots) { aliased_slots_ = slots; }
  // Of all calls so far.
  int64_t allocated_bytes() const { return allocated_bytes_; }
  int64_t pinned_bytes() const { return pinned_bytes_; }

  void copy_async(Queue queue, void* to, const void* from, int64_t bytes) override {
    if (queue == Queue::Compute) {
      std::memcpy(to, from, static_cast<size_t>(bytes));
      return;
    }
    std::memset(to, 0xff, static_cast<size_t>(bytes));  // NaN in every float format
    const bool in_order = is_in_order(queue, queue == Queue::D2H ? from : to, bytes);
    pending(queue).push_back({to, from, in_order ? bytes : 0});
    ++known(queue)[index(queue)];
  }

  Event create_event() override {
    points_.push_back({});
    return {static_cast<int32_t>(points_.size()) - 1};
  }
  Event create_timer() override {
    const Event timer = create_event();
    timers_[timer.id] = cpu_->create_timer();
    return timer;
  }
  double elapsed_ms(Event from, Event to) override {
    return cpu_->elapsed_ms(timers_.at(from.id), timers_.at(to.id));
  }
  void record(Event event, Queue queue) override {
    if (const auto timer = timers_.find(event.id); timer != timers_.end())
      cpu_->record(timer->second, queue);
    if (queue == Queue::Compute) ++known(queue)[index(queue)];
    point(event) = {queue, known(queue), true};
  }
  // Waiting on an event that was never recorded does nothing, as on CUDA.
  void wait(Queue queue, Event event) override {
    const Point& p = point(event);
    if (!p.recorded || (forgotten_ && forgotten_->queue == queue && forgotten_->on == p.queue))
      return;
    run_until(p.queue, p.clock[index(p.queue)]);
    learn(queue, p.clock);
  }
  // Of the host, for any queue, so far.
  int64_t host_waits() const { return host_waits_; }
  void synchronize(Event event) override {
    ++host_waits_;
    for (const Queue queue : {Queue::Compute, Queue::H2D, Queue::D2H}) wait(queue, event);
  }
  void synchronize(Queue queue) override {
    ++host_waits_;
    run_until(queue, known(queue)[index(queue)]);
    for (const Queue other : {Queue::Compute, Queue::H2D, Queue::D2H})
      learn(other, Clock(known(queue)));
  }

 private:
  struct Copy {
    void* to;
    const void* from;
    int64_t bytes;
  };
  // What a queue has waited for: per queue the number of its copies, of Compute the number of its
  // records.
  using Clock = std::array<int64_t, 3>;
  struct Point {
    Queue queue = Queue::Compute;
    Clock clock = {};
    bool recorded = false;
  };
  // Device bytes that a copy wrote or read, and the number of records of Compute at the time from
  // which kernels may use them.
  struct Touched {
    const std::byte *begin, *end;
    int64_t records;
  };

  void deallocate(void*, int64_t, bool) noexcept override {}  // buffers belong to the inner device
  Buffer noted(Buffer buffer) {
    ++allocation_count_;
    return buffer;
  }
  static size_t index(Queue queue) { return static_cast<size_t>(queue); }
  std::deque<Copy>& pending(Queue queue) { return pending_[index(queue)]; }
  Clock& known(Queue queue) { return known_[index(queue)]; }
  Point& point(Event event) { return points_[static_cast<size_t>(event.id)]; }

  void learn(Queue queue, const Clock& clock) {
    for (size_t i = 0; i < clock.size(); ++i) known(queue)[i] = std::max(known(queue)[i], clock[i]);
  }

  // A copy may touch device bytes that an earlier copy has touched only after a point of Compute
  // that was recorded since: the kernels that read or write them lie before it.
  bool is_in_order(Queue queue, const void* device_bytes, int64_t bytes) {
    const auto* begin = static_cast<const std::byte*>(device_bytes);
    const std::byte* end = begin + bytes;
    const int64_t waited = known(queue)[index(Queue::Compute)];
    bool in_order = queue == Queue::H2D || waited > 0;  // what goes to the host, a kernel wrote
    std::erase_if(touched_, [&](const Touched& t) {
      if (t.end <= begin || end <= t.begin) return false;
      in_order = in_order && waited > t.records;
      return t.begin >= begin && t.end <= end;
    });
    touched_.push_back({begin, end, known(Queue::Compute)[index(Queue::Compute)]});
    return in_order;
  }

  void run_until(Queue queue, int64_t count) {
    if (queue == Queue::Compute) return;
    auto& copies = pending(queue);
    while (known(queue)[index(queue)] - static_cast<int64_t>(copies.size()) < count) {
      const Copy copy = copies.front();
      std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.bytes));
      copies.pop_front();
      auto* to = static_cast<std::byte*>(copy.to);
      if (aliased_slots_ == 0 || to < ring_.data() || to >= ring_.data() + ring_.size()) continue;
      const size_t slot = ring_.size() / static_cast<size_t>(aliased_slots_);
      for (size_t at = static_cast<size_t>(to - ring_.data()) % slot; at < ring_.size(); at += slot)
        std::memmove(ring_.data() + at, copy.from, static_cast<size_t>(copy.bytes));
    }
  }

  std::unique_ptr<Device> cpu_;
  bool in_place_;
  std::optional<WaitsOf> forgotten_;
  std::deque<Copy> pending_[3];
  Clock known_[3] = {};
  std::vector<Point> points_;
  std::map<int32_t, Event> timers_;
  std::vector<Touched> touched_;
  std::span<std::byte> ring_;
  int64_t aliased_slots_ = 0;
  int64_t allocated_bytes_ = 0, pinned_bytes_ = 0, free_bytes_ = 0;
  int64_t host_waits_ = 0;
};

}  // namespace lema::test
