// Indices are handed out one by one from an atomic ticket. Threads that wait look for some tens of
// microseconds before they sleep: the ops of a decoded token follow one another closer than the
// system wakes a thread.
#include "core/thread_pool.h"

#include <immintrin.h>
#include <sched.h>

#include <algorithm>
#include <new>
#include <system_error>
#include <utility>

#include "core/control_groups.h"
#include "core/error.h"

namespace lema {
namespace {

// 40 to 140 cycles each: up to about 100 us.
constexpr int kSpins = 2000;
constexpr uint64_t kIndexMask = 0xffffffff, kRange = kIndexMask + 1;

}  // namespace

int available_cpus() {
  cpu_set_t set;
  const int cpus = sched_getaffinity(0, sizeof set, &set) == 0
                       ? CPU_COUNT(&set)
                       : static_cast<int>(std::thread::hardware_concurrency());
  return std::max(1, std::min(cpus, ControlGroups().cpus()));
}

// Threads beyond the CPUs would look while others of them wait for a CPU.
ThreadPool::ThreadPool(int threads) : spins_(threads <= available_cpus() ? kSpins : 0) {
  try {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
  } catch (const std::system_error& error) {
    join();
    fail(ErrorCode::DoesNotFit, "cannot start {} threads: {}", threads, error.what());
  } catch (const std::bad_alloc&) {
    join();
    throw;
  }
}

ThreadPool::~ThreadPool() { join(); }

void ThreadPool::join() {
  stop_ = true;
  ++ranges_;
  ranges_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::wait(const std::atomic<uint32_t>& value, uint32_t old) const {
  for (int i = 0; i < spins_; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    _mm_pause();
  }
  value.wait(old);
}

void ThreadPool::run_index(const Body& body, int64_t i) {
  try {
    if (!failed_) body(i);
  } catch (...) {
    const std::lock_guard lock(error_mutex_);
    if (!error_) error_ = std::current_exception();
    failed_ = true;
  }
  if (--unfinished_ == 0) unfinished_.notify_one();
}

// A late worker may read the body and count of the next range beside the ticket of the last; then
// the ticket has been closed before, and the exchange fails.
void ThreadPool::run_indices() {
  uint64_t ticket = ticket_.load();
  for (;;) {
    const Body* body = body_;
    const uint64_t index = ticket & kIndexMask;
    if (index >= count_) return;
    if (!ticket_.compare_exchange_weak(ticket, ticket + 1)) continue;
    run_index(*body, static_cast<int64_t>(index));
    ticket = ticket_.load();
  }
}

void ThreadPool::work() {
  for (uint32_t seen = 0;;) {
    wait(ranges_, seen);
    seen = ranges_;
    if (stop_) return;
    run_indices();
  }
}

void ThreadPool::parallel_for(int64_t count, const Body& body) {
  if (count <= 0) return;
  if (workers_.empty() || count == 1) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  check(count < INT32_MAX, "a range of {} indices", count);
  const uint64_t range = (ticket_ & ~kIndexMask) + kRange;
  ticket_ = range - 1;  // closed
  body_ = &body;
  count_ = static_cast<uint32_t>(count);
  unfinished_ = static_cast<uint32_t>(count);
  ticket_ = range;
  ++ranges_;
  ranges_.notify_all();
  run_indices();
  for (uint32_t left; (left = unfinished_) != 0;) wait(unfinished_, left);
  if (failed_.exchange(false)) std::rethrow_exception(std::exchange(error_, nullptr));
}

}  // namespace lema
