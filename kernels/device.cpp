// Buffer's ownership: moves and the free at the end. And what is allocated in all.
#include "device.h"

#include <utility>

#include "core/error.h"
#include "core/units.h"

namespace lema {

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(pinned_, other.pinned_);
  return *this;
}

Buffer::~Buffer() {
  if (device_ != nullptr && data_ != nullptr) device_->deallocate(data_, bytes_, pinned_);
}

void Device::set_limits(int64_t bytes, int64_t pinned_bytes) {
  const std::lock_guard lock(mutex_);
  limit_ = {bytes, pinned_bytes};
}

void Device::check_limit(int64_t bytes, std::string_view label, bool pinned) const {
  check(bytes >= 0, "{}: {} bytes asked for", label, bytes);
  if (bytes > limit_[pinned] - allocated_[pinned])
    fail(ErrorCode::DoesNotFit, "{}: {} beside {} are more than the {} planned", label,
         format_bytes(bytes), format_bytes(allocated_[pinned]), format_bytes(limit_[pinned]));
}

void Device::uncount(int64_t bytes, bool pinned) noexcept {
  const std::lock_guard lock(mutex_);
  allocated_[pinned] -= bytes;
}

}  // namespace lema
