// WeightReader: reads images into memory in the background, in the order in which they were asked
// for: the order in which they will be needed. DiskReader does it, by one thread with io_uring,
// else by a few that wait.
//
//   reader.start(image, to, job);   ...   reader.wait(job);   // `to` holds the image
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "stream/disk_files.h"
#include "stream/host_image.h"
#include "stream/uring_queue.h"

namespace lema {

// Images under way; owned by whoever waits for them, and used by that thread.
class DiskJob {
 public:
  // Whether something was started since the last wait.
  bool is_open() const { return open_; }
  // When the first read began and the last one was done; for who has waited.
  using Clock = std::chrono::steady_clock;
  Clock::time_point begin() const { return begin_; }
  Clock::time_point end() const { return end_; }

 private:
  friend class WeightReader;
  friend class DiskReader;
  bool open_ = false;
  int64_t pending_ = 0;  // chunks
  bool begun_ = false;
  Clock::time_point begin_, end_;
};

class WeightReader {
 public:
  virtual ~WeightReader() = default;
  // Queues the reads of an image to `to` (aligned to kDiskBlock) as a part of the job.
  void start(const HostImage& image, std::byte* to, DiskJob& job);
  // Blocks until the job is done. Throws the first error of any read: Io, BadInput where a file has
  // become shorter.
  void wait(DiskJob& job);

 private:
  virtual void submit(const HostImage& image, std::byte* to, DiskJob& job) = 0;
  virtual void complete(DiskJob& job) = 0;
};
using MakeReader = std::function<std::unique_ptr<WeightReader>(const DiskFiles& files)>;

class DiskReader final : public WeightReader {
 public:
  // `files` outlives the reader. Without `uring` threads read, also where io_uring could be had.
  explicit DiskReader(const DiskFiles& files, bool uring = true);
  DiskReader(const DiskReader&) = delete;
  // Waits for what is in flight: memory that is read into lives longer.
  ~DiskReader() override;

  int64_t read_bytes() const;  // so far

 private:
  struct Chunk {
    size_t file = 0;
    int64_t offset = 0, bytes = 0, needed = 0;
    std::byte* to = nullptr;
    DiskJob* job = nullptr;
  };
  void submit(const HostImage& image, std::byte* to, DiskJob& job) override;
  void complete(DiskJob& job) override;
  void work();
  void stop();
  void keep_error();
  void read_by_waiting();
  void read_by_queue();
  Chunk take();
  void read(const Chunk& chunk);
  void finish(const Chunk& chunk);

  const DiskFiles& files_;
  std::unique_ptr<UringQueue> queue_;
  mutable std::mutex mutex_;
  std::condition_variable work_, done_;
  std::deque<Chunk> chunks_;  // not started
  int64_t read_bytes_ = 0;
  bool stop_ = false;
  std::exception_ptr error_;
  std::vector<std::thread> threads_;
};

// A DiskReader.
std::unique_ptr<WeightReader> make_disk_reader(const DiskFiles& files);

}  // namespace lema
