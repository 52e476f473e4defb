// The CPU as a Device: everything is done when the call returns, so queues and events are
// formalities that are still checked for misuse. Made by make_cpu_device for the run commands and
// the tests.
#include "device.h"

#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <map>
#include <mutex>

#include "core/error.h"
#include "core/units.h"
#include "cpu/gemm_bf16.h"
#include "cpu/host_memory.h"
#include "cpu/isa.h"
#include "ops.h"

namespace lema {
namespace {

class CpuDevice final : public Device {
 public:
  std::string name() const override { return "cpu"; }
  std::string arithmetic() const override {
    constexpr const char* kIsa[] = {"SSE2", "AVX2", "AVX-512"};
    constexpr const char* kBf16[] = {"", ", AVX512-BF16", ", AMX"};
    return std::string(kIsa[static_cast<size_t>(cpu::isa())]) +
           kBf16[static_cast<size_t>(cpu::bf16_products())];
  }
  bool reads_host_memory() const override { return true; }
  DType preferred_activation(DType stored) const override {
    return stored == DType::BF16 && cpu_prefers_bf16() ? DType::BF16 : DType::F32;
  }

  void commit_allocations() override { commit_ = true; }
  Buffer allocate(int64_t bytes, std::string_view label) override {
    return map(bytes, label, false);
  }
  Buffer allocate_pinned(int64_t bytes, std::string_view label) override {
    return map(bytes, label, true);
  }

  void set_limits(int64_t bytes, int64_t pinned_bytes) override {
    limit_[false] = bytes;
    limit_[true] = pinned_bytes;
  }

  void copy_async(Queue, void* to, const void* from, int64_t bytes) override {
    std::memmove(to, from, static_cast<size_t>(bytes));
  }

  Event create_event() override { return Event{event_count_++}; }
  Event create_timer() override {
    const Event timer = create_event();
    times_[timer.id] = {};
    return timer;
  }
  double elapsed_ms(Event from, Event to) override {
    return std::chrono::duration<double, std::milli>(times_.at(to.id) - times_.at(from.id)).count();
  }
  void record(Event event, Queue) override {
    check_event(event);
    if (const auto timer = times_.find(event.id); timer != times_.end())
      timer->second = std::chrono::steady_clock::now();
  }
  void wait(Queue, Event event) override { check_event(event); }
  void synchronize(Event event) override { check_event(event); }
  void synchronize(Queue) override {}

 private:
  Buffer map(int64_t bytes, std::string_view label, bool pinned) {
    const std::lock_guard lock(mutex_);
    if (bytes > limit_[pinned] - used_[pinned])
      fail(ErrorCode::DoesNotFit, "{}: {} beside {} are more than the {} planned", label,
           format_bytes(bytes), format_bytes(used_[pinned]), format_bytes(limit_[pinned]));
    std::map<void*, int64_t> entry{{nullptr, bytes}};  // first: nothing fails once it is mapped
    // The disk reads into pinned memory.
    const auto commit = !commit_ ? cpu::Commit::Nothing
                                 : pinned ? cpu::Commit::Huge : cpu::Commit::Small;
    void* data = cpu::map_memory(bytes, label, commit);
    auto node = entry.extract(nullptr);
    node.key() = data;
    bytes_of_.insert(std::move(node));
    used_[pinned] += bytes;
    ++allocation_count_;
    return Buffer(this, data, bytes, pinned);
  }
  void deallocate(void* data, bool pinned) noexcept override {
    const std::lock_guard lock(mutex_);
    const auto it = bytes_of_.find(data);
    used_[pinned] -= it->second;
    cpu::unmap_memory(data, it->second);
    bytes_of_.erase(it);
  }
  void check_event(Event event) const {
    check(event.id >= 0 && event.id < event_count_, "event {} of {} created", event.id,
          event_count_.load());
  }

  std::mutex mutex_;
  std::map<void*, int64_t> bytes_of_;
  std::array<int64_t, 2> used_ = {}, limit_ = {INT64_MAX, INT64_MAX};  // [pinned]
  std::atomic<int32_t> event_count_ = 0;
  bool commit_ = false;
  std::map<int32_t, std::chrono::steady_clock::time_point> times_;  // of timers
};

}  // namespace

std::unique_ptr<Device> make_cpu_device() { return std::make_unique<CpuDevice>(); }

}  // namespace lema
