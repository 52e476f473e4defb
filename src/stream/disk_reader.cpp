// Images cut into chunks, and the two ways of reading them.
#include "stream/disk_reader.h"

#include <algorithm>
#include <new>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace lema {
namespace {

// 32 MiB in flight through io_uring keep a disk busy; in many small reads a virtual disk gives more
// than in few large ones (tests/bench/RESULTS.md). A thread has one read in flight: a large one.
constexpr int64_t kQueuedBytes = int64_t{512} << 10, kWaitedBytes = int64_t{4} << 20;
constexpr int kDepth = 64;   // reads in flight of io_uring
constexpr int kThreads = 4;  // that wait for one read each

}  // namespace

void WeightReader::start(const HostImage& image, std::byte* to, DiskJob& job) {
  if (!std::exchange(job.open_, true)) job.begun_ = false;  // nobody reads for a job not open
  submit(image, to, job);
}

void WeightReader::wait(DiskJob& job) {
  complete(job);
  job.open_ = false;
}

std::unique_ptr<WeightReader> make_disk_reader(const DiskFiles& files) {
  return std::make_unique<DiskReader>(files);
}

DiskReader::DiskReader(const DiskFiles& files, bool uring) : files_(files) {
  if (uring && files.is_direct()) queue_ = UringQueue::open(kDepth);
  try {
    for (int i = 0; i < (queue_ ? 1 : kThreads); ++i)
      threads_.emplace_back([this] { work(); });
  } catch (const std::system_error& error) {
    stop();
    fail(ErrorCode::DoesNotFit, "cannot start threads that read from disk: {}", error.what());
  } catch (const std::bad_alloc&) {
    stop();
    throw;
  }
}

DiskReader::~DiskReader() { stop(); }

void DiskReader::stop() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    chunks_.clear();
  }
  work_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void DiskReader::submit(const HostImage& image, std::byte* to, DiskJob& job) {
  const std::lock_guard lock(mutex_);
  const int64_t most = queue_ ? kQueuedBytes : kWaitedBytes;
  for (const Window& window : image.windows()) {
    for (int64_t at = 0; at < window.bytes; at += most) {
      const int64_t bytes = std::min(most, window.bytes - at);
      chunks_.push_back({window.file, window.begin + at, bytes, std::min(bytes, window.needed - at),
                         to + window.image_offset + at, &job});
      ++job.pending_;
    }
  }
  work_.notify_all();
}

void DiskReader::complete(DiskJob& job) {
  std::unique_lock lock(mutex_);
  done_.wait(lock, [&] { return error_ || job.pending_ == 0; });
  if (error_) std::rethrow_exception(error_);
}

int64_t DiskReader::read_bytes() const {
  const std::lock_guard lock(mutex_);
  return read_bytes_;
}

void DiskReader::work() {
  try {
    queue_ ? read_by_queue() : read_by_waiting();
  } catch (...) {
    keep_error();
  }
}

// The first one; nothing more is read.
void DiskReader::keep_error() {
  const std::lock_guard lock(mutex_);
  if (!error_) error_ = std::current_exception();
  chunks_.clear();
  done_.notify_all();
}

void DiskReader::read(const Chunk& chunk) {
  try {
    files_.read(chunk.file, chunk.offset, chunk.bytes, chunk.needed, chunk.to);
  } catch (...) {
    keep_error();
  }
}

// The next chunk. Under the lock, as finish().
DiskReader::Chunk DiskReader::take() {
  const Chunk chunk = chunks_.front();
  chunks_.pop_front();
  if (!std::exchange(chunk.job->begun_, true)) chunk.job->begin_ = DiskJob::Clock::now();
  return chunk;
}

void DiskReader::finish(const Chunk& chunk) {
  read_bytes_ += chunk.bytes;
  if (--chunk.job->pending_ > 0) return;
  chunk.job->end_ = DiskJob::Clock::now();
  done_.notify_all();
}

void DiskReader::read_by_waiting() {
  std::unique_lock lock(mutex_);
  for (;;) {
    work_.wait(lock, [&] { return stop_ || !chunks_.empty(); });
    if (stop_) return;
    const Chunk chunk = take();
    lock.unlock();
    read(chunk);
    lock.lock();
    finish(chunk);
  }
}

void DiskReader::read_by_queue() {
  std::vector<Chunk> flying(kDepth);
  std::vector<size_t> free_tags;
  for (size_t tag = 0; tag < flying.size(); ++tag) free_tags.push_back(tag);
  std::unique_lock lock(mutex_);
  for (;;) {
    work_.wait(lock, [&] { return stop_ || !chunks_.empty() || free_tags.size() < kDepth; });
    for (; !chunks_.empty() && !free_tags.empty(); free_tags.pop_back()) {
      const Chunk& chunk = flying[free_tags.back()] = take();
      queue_->submit(files_.descriptor(chunk.file), chunk.to, chunk.bytes, chunk.offset,
                     free_tags.back());
    }
    if (free_tags.size() == kDepth) return;  // stopped, nothing in flight
    lock.unlock();
    const UringQueue::Done done = queue_->wait();
    const Chunk& chunk = flying[done.tag];
    // What came short or failed is read once more by waiting, which tries again and finds words.
    if (done.bytes < chunk.needed) read(chunk);
    lock.lock();
    finish(chunk);
    free_tags.push_back(done.tag);
  }
}

}  // namespace lema
