// PassInputs: the integers of one pass (ids, positions, sequences, ...), packed on the host and
// sent in one copy. Used by Inference, RowLosses and write_row_logits.
#pragma once

#include <cstring>
#include <span>

#include "core/tensor.h"
#include "device.h"

namespace lema {

class PassInputs {
 public:
  // For at most `integers` in one pass.
  PassInputs(Device& device, int64_t integers)
      : device_(device),
        buffer_(device.allocate(integers * 4, "pass inputs")),
        host_(device.allocate_pinned(integers * 4, "pass inputs (host)")) {}

  // Begins a pass; the one before is complete.
  void clear() { used_ = 0; }
  // Where these values will lie on the device after send().
  TensorView put(std::span<const int32_t> values, Shape shape) {
    const int64_t bytes = std::ssize(values) * 4, at = used_ * 4;
    check(at + bytes <= buffer_.bytes(), "inputs of a pass beyond {} bytes", buffer_.bytes());
    if (bytes > 0) std::memcpy(host_.data() + at, values.data(), static_cast<size_t>(bytes));
    used_ += std::ssize(values);
    return {buffer_.data() + at, DType::I32, shape};
  }
  // In the compute queue's order.
  void send() { device_.copy_async(Queue::Compute, buffer_.data(), host_.data(), used_ * 4); }

 private:
  Device& device_;
  Buffer buffer_, host_;
  int64_t used_ = 0;
};

}  // namespace lema
