// Buffer's ownership: moves and the free at the end, for every device.
#include "device.h"

#include <utility>

namespace lema {

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(pinned_, other.pinned_);
  return *this;
}

Buffer::~Buffer() {
  if (device_ != nullptr && data_ != nullptr) device_->deallocate(data_, pinned_);
}

}  // namespace lema
