// The failing twins of the clock and of the device, linked into lema_faulty. By environment:
//
//   LEMA_FAULT_CLOCK   wild: the time of day jumps ten years back and forth from call to call;
//                      still: time stands, also for durations
//   LEMA_FAULT_DEVICE  at=N: call N of the device that can fail (copies, waits) does, as a lost GPU
//                      does, and every one after it; the number of calls goes to the file
//                      LEMA_FAULT_DEVICE_LOG
#include <fcntl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>

#include "core/error.h"
#include "device.h"

namespace {

std::atomic<int64_t> g_clock_calls = 0;

const char* clock_fault() {
  static const char* const fault = std::getenv("LEMA_FAULT_CLOCK");
  return fault ? fault : "";
}

}  // namespace

extern "C" int clock_gettime(clockid_t clock, struct timespec* out) noexcept {
  const int result = static_cast<int>(::syscall(SYS_clock_gettime, clock, out));
  const std::string_view fault = clock_fault();
  if (fault == "still") *out = {1'700'000'000, 0};
  constexpr time_t kTenYears = 315'360'000;
  if (fault == "wild" && clock == CLOCK_REALTIME)
    out->tv_sec += ++g_clock_calls % 2 ? -kTenYears : kTenYears;
  return result;
}

namespace lema {
namespace {

class FailingDevice final : public Device {
 public:
  explicit FailingDevice(std::unique_ptr<Device> real) : real_(std::move(real)) {
    if (const char* fault = std::getenv("LEMA_FAULT_DEVICE"))
      at_ = std::atol(fault + std::strlen("at="));
  }
  ~FailingDevice() override {
    const char* log = std::getenv("LEMA_FAULT_DEVICE_LOG");
    if (!log) return;
    const std::string line = std::to_string(calls_) + "\n";
    const int fd = ::open(log, O_CREAT | O_APPEND | O_WRONLY, 0666);
    static_cast<void>(!::write(fd, line.data(), line.size()));
    ::close(fd);
  }
  std::string name() const override { return real_->name(); }
  std::string arithmetic() const override { return real_->arithmetic(); }
  bool reads_host_memory() const override { return real_->reads_host_memory(); }
  DType preferred_activation(DType stored) const override {
    return real_->preferred_activation(stored);
  }
  void commit_allocations() override { real_->commit_allocations(); }
  Buffer allocate(int64_t bytes, std::string_view label) override {
    ++allocation_count_;
    return real_->allocate(bytes, label);
  }
  Buffer allocate_pinned(int64_t bytes, std::string_view label) override {
    ++allocation_count_;
    return real_->allocate_pinned(bytes, label);
  }
  void set_limits(int64_t bytes, int64_t pinned) override { real_->set_limits(bytes, pinned); }
  void copy_async(Queue queue, void* to, const void* from, int64_t bytes) override {
    count("a copy");
    real_->copy_async(queue, to, from, bytes);
  }
  Event create_event() override { return real_->create_event(); }
  Event create_timer() override { return real_->create_timer(); }
  double elapsed_ms(Event from, Event to) override { return real_->elapsed_ms(from, to); }
  void record(Event event, Queue queue) override { real_->record(event, queue); }
  void wait(Queue queue, Event event) override { real_->wait(queue, event); }
  void synchronize(Event event) override {
    count("a wait");
    real_->synchronize(event);
  }
  void synchronize(Queue queue) override {
    count("a wait");
    real_->synchronize(queue);
  }

 private:
  void count(const char* what) {
    if (++calls_ >= at_ && at_ > 0)
      fail(ErrorCode::Internal, "the device is lost: {} failed at call {}", what, calls_.load());
  }
  void deallocate(void*, int64_t, bool) noexcept override {}  // buffers belong to the inner device

  std::unique_ptr<Device> real_;
  std::atomic<int64_t> calls_ = 0;
  int64_t at_ = 0;
};

}  // namespace
}  // namespace lema

// By name, for the linker: lema::make_cpu_device().
extern "C" {
std::unique_ptr<lema::Device> __real__ZN4lema15make_cpu_deviceEv();
std::unique_ptr<lema::Device> __wrap__ZN4lema15make_cpu_deviceEv() {
  return std::make_unique<lema::FailingDevice>(__real__ZN4lema15make_cpu_deviceEv());
}
}
