// A fixed set of threads that run index ranges. The split of work into indices is the caller's and
// never depends on the thread count, so results do not either.
#pragma once

#include <condition_variable>
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
  // done. The first exception is rethrown here. Threads: one caller at a time; not reentrant.
  void parallel_for(int64_t count, const std::function<void(int64_t)>& body);

 private:
  void join();
  void work();
  void run_indices();

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable start_, done_;
  const std::function<void(int64_t)>* body_ = nullptr;
  int64_t next_ = 0, count_ = 0;
  uint64_t generation_ = 0;
  int busy_ = 0;
  bool stop_ = false;
  std::exception_ptr error_;
};

// The number of CPUs this process may run on.
int available_cpus();

}  // namespace lema
