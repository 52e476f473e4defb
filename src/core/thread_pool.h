// A fixed set of threads that run index ranges. The split of work into indices is the caller's and
// never depends on the thread count, so results do not either.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace lema {

class ThreadPool {
 public:
  // `threads` workers in all, the caller among them; at least 1.
  explicit ThreadPool(int threads);
  ThreadPool(const ThreadPool&) = delete;
  ~ThreadPool();

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(i) for i in [0, count), each once, in any order, on any thread; returns when all are
  // done, whether or not every worker took part. The first exception is rethrown here; indices that
  // nobody has begun by then are left out. LIMIT: count < 2^31. Threads: one caller at a time; not
  // reentrant.
  void parallel_for(int64_t count, const std::function<void(int64_t)>& body);

 private:
  using Body = std::function<void(int64_t)>;
  void join();
  void work();
  void run_indices();
  void run_index(const Body& body, int64_t i);
  // Returns when `value` is another than `old`.
  void wait(const std::atomic<uint32_t>& value, uint32_t old) const;

  std::vector<std::thread> workers_;
  int spins_;  // looks at a value before sleeping on it

  // A range is open while the low half of the ticket, the next index, is below its count. The high
  // half is the number of the range: who takes an index of a range has read the range's own body.
  std::atomic<uint64_t> ticket_ = 0;
  std::atomic<const Body*> body_ = nullptr;
  std::atomic<uint32_t> count_ = 0;
  std::atomic<uint32_t> unfinished_ = 0;  // indices, begun or not; the caller sleeps on it
  std::atomic<uint32_t> ranges_ = 0;      // opened so far; workers sleep on it
  std::atomic<bool> stop_ = false, failed_ = false;
  std::mutex error_mutex_;
  std::exception_ptr error_;
};

// The number of CPUs this process may run on, within the quota of a container.
int available_cpus();

}  // namespace lema
