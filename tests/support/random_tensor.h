// Host matrices and tensors with seeded random contents, already rounded to their storage type, and
// their values as double for the references of tests/ref. Rows may lie apart; the gap holds a
// sentinel that no kernel may touch.
#pragma once

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "ops.h"
#include "support/expect_close.h"

namespace lema::test {

inline std::string label(DType dtype) { return std::string(name(dtype)); }

inline double load(const void* data, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::F32:
      return static_cast<const float*>(data)[i];
    case DType::BF16:
      return to_f32(static_cast<const bf16*>(data)[i]);
    case DType::F16:
      return to_f32(static_cast<const f16*>(data)[i]);
    case DType::I32:
      return static_cast<const int32_t*>(data)[i];
    default:
      fail(ErrorCode::Internal, "no test values of {}", name(dtype));
  }
}

inline void store(void* data, DType dtype, int64_t i, double value) {
  const auto x = static_cast<float>(value);
  switch (dtype) {
    case DType::F32:
      static_cast<float*>(data)[i] = x;
      return;
    case DType::BF16:
      static_cast<bf16*>(data)[i] = to_bf16(x);
      return;
    case DType::F16:
      static_cast<f16*>(data)[i] = to_f16(x);
      return;
    case DType::I32:
      static_cast<int32_t*>(data)[i] = static_cast<int32_t>(value);
      return;
    default:
      fail(ErrorCode::Internal, "no test values of {}", name(dtype));
  }
}

// Each value as storage of `dtype` holds it.
inline Values rounded(Values values, DType dtype) {
  float storage = 0;
  for (double& x : values) {
    store(&storage, dtype, 0, x);
    x = load(&storage, dtype, 0);
  }
  return values;
}

// A standard normal sequence (Box-Muller), the same on every machine.
class Normal {
 public:
  explicit Normal(uint64_t seed) : engine_(seed) {}
  double operator()() {
    const double a = unit(), b = unit();
    return std::sqrt(-2 * std::log(a)) * std::cos(6.283185307179586 * b);
  }

 private:
  double unit() { return (static_cast<double>(engine_() >> 11) + 0.5) * 0x1p-53; }
  std::mt19937_64 engine_;
};

// Owner of a (rows, cols) matrix with `stride` elements from row to row.
class Matrix {
 public:
  static constexpr std::byte kSentinel{0x5a};
  Matrix(int64_t rows, int64_t cols, DType dtype, int64_t stride = 0)
      : bytes_(static_cast<size_t>(rows * std::max(cols, stride) * element_bytes(dtype)),
               kSentinel),
        view_(bytes_.data(), dtype, rows, cols, std::max(cols, stride)) {}
  Matrix(Matrix&&) = default;
  Matrix(const Matrix& other) : bytes_(other.bytes_), view_(other.view_) {
    view_.data = bytes_.data();
  }
  Matrix& operator=(Matrix other) {
    bytes_ = std::move(other.bytes_);
    view_ = other.view_;
    return *this;
  }

  static Matrix random(int64_t rows, int64_t cols, DType dtype, uint64_t seed, double scale = 1,
                       int64_t stride = 0) {
    Matrix m(rows, cols, dtype, stride);
    Normal normal(seed);
    for (int64_t n = 0; n < rows; ++n)
      for (int64_t c = 0; c < cols; ++c)
        store(m.view_.data, dtype, n * m.view_.stride + c, scale * normal());
    return m;
  }

  const MatrixView& view() const { return view_; }
  operator MatrixView() const { return view_; }  // NOLINT: reads as the argument it is
  // The same bytes as a tensor; the rows must lie together.
  TensorView tensor() const {
    check(view_.stride == view_.cols, "a tensor has no gaps");
    return {view_.data, view_.dtype, {view_.rows, view_.cols}};
  }
  TensorView vector() const { return {view_.data, view_.dtype, {view_.rows * view_.cols}}; }
  Values values() const {
    Values out;
    for (int64_t n = 0; n < view_.rows; ++n)
      for (int64_t c = 0; c < view_.cols; ++c)
        out.push_back(load(view_.data, view_.dtype, n * view_.stride + c));
    return out;
  }
  void set(int64_t n, int64_t c, double value) {
    store(view_.data, view_.dtype, n * view_.stride + c, value);
  }
  bool same_bytes(const Matrix& other) const { return bytes_ == other.bytes_; }
  // Nothing was written between the rows.
  bool gaps_intact() const {
    const int64_t item = element_bytes(view_.dtype);
    for (int64_t n = 0; n < view_.rows; ++n)
      for (int64_t b = (n * view_.stride + view_.cols) * item; b < (n + 1) * view_.stride * item;
           ++b)
        if (bytes_[static_cast<size_t>(b)] != kSentinel) return false;
    return true;
  }

 private:
  std::vector<std::byte> bytes_;
  MatrixView view_;
};

inline Matrix int_matrix(int64_t rows, int64_t cols, const std::vector<int>& values) {
  Matrix m(rows, cols, DType::I32);
  for (int64_t i = 0; i < rows * cols; ++i)
    store(m.view().data, DType::I32, i, values[static_cast<size_t>(i)]);
  return m;
}

}  // namespace lema::test
