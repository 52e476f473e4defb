// Slicing and printing of tensor views.
#include "core/tensor.h"

namespace lema {

std::string Shape::str() const {
  std::string out = "[";
  for (int i = 0; i < rank_; ++i) out += fmt::format("{}{}", i ? ", " : "", (*this)[i]);
  return out + "]";
}

TensorView TensorView::rows(int64_t begin, int64_t end) const {
  check(shape.rank() >= 1 && begin >= 0 && begin <= end && end <= shape[0],
        "rows [{}, {}) of a tensor of shape {}", begin, end, shape.str());
  TensorView out = *this;
  const int64_t row_bytes = shape[0] == 0 ? 0 : bytes() / shape[0];
  out.data = static_cast<char*>(data) + begin * row_bytes;
  out.shape[0] = end - begin;
  return out;
}

}  // namespace lema
