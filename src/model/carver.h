// Carver: cuts one allocation into aligned regions, or only counts what they need.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lema {

class Carver {
 public:
  // With a null base nothing but used() is meaningful.
  explicit Carver(std::byte* base) : base_(base) {}
  // The next region, 64-byte aligned.
  std::byte* take(int64_t bytes) {
    std::byte* region = base_ ? base_ + used_ : nullptr;
    used_ += (bytes + 63) / 64 * 64;
    return region;
  }
  int64_t used() const { return used_; }

 private:
  std::byte* base_;
  int64_t used_ = 0;
};

}  // namespace lema
