// The CPU as a Device: everything is done when the call returns, so queues and events are
// formalities that are still checked for misuse. Made by make_cpu_device for the run commands and
// the tests.
#include "device.h"

#include <atomic>
#include <chrono>
#include <cstring>
#include <map>

#include "core/error.h"
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
    // The disk reads into pinned memory.
    const auto commit = !commit_ ? cpu::Commit::Nothing
                                 : pinned ? cpu::Commit::Huge : cpu::Commit::Small;
    return counted(bytes, label, pinned,
                   [&] { return cpu::map_memory(bytes, label, commit); });
  }
  void deallocate(void* data, int64_t bytes, bool pinned) noexcept override {
    cpu::unmap_memory(data, bytes);
    uncount(bytes, pinned);
  }
  void check_event(Event event) const {
    check(event.id >= 0 && event.id < event_count_, "event {} of {} created", event.id,
          event_count_.load());
  }

  std::atomic<int32_t> event_count_ = 0;
  bool commit_ = false;
  std::map<int32_t, std::chrono::steady_clock::time_point> times_;  // of timers
};

}  // namespace

std::unique_ptr<Device> make_cpu_device() { return std::make_unique<CpuDevice>(); }

}  // namespace lema
