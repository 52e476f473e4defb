// Shape and TensorView: a pointer with dtype and shape that owns nothing.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "core/dtype.h"
#include "core/error.h"

namespace lema {

// Up to 8 dimensions, row-major; rank 0 is a scalar with one element.
class Shape {
 public:
  static constexpr int kMaxRank = 8;
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) {
    check(dims.size() <= kMaxRank, "shape of rank {}", dims.size());
    for (int64_t d : dims) dims_[static_cast<size_t>(rank_++)] = d;
  }
  void push_back(int64_t dim) {
    check(rank_ < kMaxRank, "shape of rank above {}", kMaxRank);
    dims_[static_cast<size_t>(rank_++)] = dim;
  }
  int rank() const { return rank_; }
  int64_t operator[](int i) const { return dims_[static_cast<size_t>(i)]; }
  int64_t& operator[](int i) { return dims_[static_cast<size_t>(i)]; }
  // Product of the dimensions; callers that read untrusted shapes check for overflow first.
  int64_t elements() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= dims_[static_cast<size_t>(i)];
    return n;
  }
  bool operator==(const Shape& other) const {
    if (rank_ != other.rank_) return false;
    for (int i = 0; i < rank_; ++i)
      if ((*this)[i] != other[i]) return false;
    return true;
  }
  // "[2, 3]"
  std::string str() const;

 private:
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

struct TensorView {
  void* data = nullptr;
  DType dtype = DType::F32;
  Shape shape;

  TensorView() = default;
  TensorView(void* data_, DType dtype_, Shape shape_) : data(data_), dtype(dtype_), shape(shape_) {}

  explicit operator bool() const { return data != nullptr; }
  int64_t elements() const { return shape.elements(); }
  int64_t bytes() const { return elements() * element_bytes(dtype); }
  // Typed pointer; throws Internal when T is not the dtype.
  template <typename T>
  T* as() const {
    check(dtype == kDTypeOf<T>, "tensor is {}, read as {}", name(dtype), name(kDTypeOf<T>));
    return static_cast<T*>(data);
  }
  // Rows [begin, end) of the first dimension.
  TensorView rows(int64_t begin, int64_t end) const;
};

}  // namespace lema
