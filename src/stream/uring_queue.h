// UringQueue: reads in flight through io_uring, for one thread. The disk reader uses it for reads
// past the page cache where it can be had; else it has threads that wait.
#pragma once

#include <cstdint>
#include <memory>

namespace lema {

class UringQueue {
 public:
  // At most `depth` reads in flight. Null where liburing is not built in or the kernel refuses
  // (too old, or a container's filter).
  static std::unique_ptr<UringQueue> open(int depth);
  virtual ~UringQueue() = default;

  // Starts one read. Memory stays valid until wait() has returned its tag.
  virtual void submit(int descriptor, void* to, int64_t bytes, int64_t offset, uint64_t tag) = 0;
  struct Done {
    uint64_t tag = 0;
    int64_t bytes = 0;  // read, or below 0: an errno
  };
  // Blocks until one read, of those in flight, is done.
  virtual Done wait() = 0;
};

}  // namespace lema
