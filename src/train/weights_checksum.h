// WeightsChecksum: the checksum of a model's weights, read beside the first steps: only a
// checkpoint needs it, and a model larger than memory takes as long to read as half a step. Of the
// training loop.
#pragma once

#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <future>
#include <string>
#include <thread>

#include "core/error.h"
#include "core/log.h"
#include "train/checkpoint.h"

namespace lema {

class WeightsChecksum {
 public:
  // `folder` outlives the object.
  explicit WeightsChecksum(const ModelFolder& folder)
      : value_(std::async(std::launch::async | std::launch::deferred,
                          [this, &folder, caller = std::this_thread::get_id()] {
                            return read(folder, caller);
                          })) {}
  ~WeightsChecksum() { abandoned_ = true; }  // and value_ waits for the thread
  // Throws what went wrong with it, once it is known.
  void check() const {
    if (is_ready()) value_.get();
  }
  // Waits for it.
  const std::string& get() const {
    if (value_.wait_for(std::chrono::seconds(1)) == std::future_status::timeout)
      log::info("waiting for the checksum of the weights");
    return value_.get();
  }

 private:
  // Steps go first; a save that waits for the checksum leaves it the CPU. On Linux who 0 is the
  // calling thread alone.
  std::string read(const ModelFolder& folder, std::thread::id caller) const {
    if (std::this_thread::get_id() != caller) setpriority(PRIO_PROCESS, 0, 19);
    return weights_checksum(folder, [this] {
      if (abandoned_) fail(ErrorCode::Interrupted, "the run ended before its first save");
    });
  }
  bool is_ready() const {
    return value_.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
  }

  std::atomic<bool> abandoned_ = false;
  std::shared_future<std::string> value_;
};

}  // namespace lema
