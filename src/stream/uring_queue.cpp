// liburing behind uring_queue.h, where CMake found it.
#include "stream/uring_queue.h"

#include "core/error.h"

#if LEMA_HAS_URING
#include <liburing.h>
#endif

namespace lema {

#if LEMA_HAS_URING

namespace {

class Uring final : public UringQueue {
 public:
  explicit Uring(int depth) {
    is_open_ = ::io_uring_queue_init(static_cast<unsigned>(depth), &ring_, 0) == 0;
  }
  ~Uring() override {
    if (is_open_) ::io_uring_queue_exit(&ring_);
  }
  bool is_open() const { return is_open_; }

  void submit(int descriptor, void* to, int64_t bytes, int64_t offset, uint64_t tag) override {
    io_uring_sqe* entry = ::io_uring_get_sqe(&ring_);
    check(entry != nullptr, "more reads in flight than the queue is deep");
    ::io_uring_prep_read(entry, descriptor, to, static_cast<unsigned>(bytes),
                         static_cast<uint64_t>(offset));
    entry->user_data = tag;
    while (true) {
      const int result = ::io_uring_submit(&ring_);
      if (result == 1) return;
      // EAGAIN, EBUSY: the kernel has no memory for the request yet.
      check(result == -EINTR || result == -EAGAIN || result == -EBUSY, "io_uring: error {}",
            -result);
    }
  }

  Done wait() override {
    io_uring_cqe* entry = nullptr;
    int result = -EINTR;
    while (result == -EINTR) result = ::io_uring_wait_cqe(&ring_, &entry);
    check(result == 0, "io_uring: error {}", -result);
    const Done done{entry->user_data, entry->res};
    ::io_uring_cqe_seen(&ring_, entry);
    return done;
  }

 private:
  io_uring ring_ = {};
  bool is_open_ = false;
};

}  // namespace

std::unique_ptr<UringQueue> UringQueue::open(int depth) {
  auto queue = std::make_unique<Uring>(depth);
  if (!queue->is_open()) return nullptr;
  return queue;
}

#else

std::unique_ptr<UringQueue> UringQueue::open(int) { return nullptr; }

#endif

}  // namespace lema
