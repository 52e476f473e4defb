// Matrix products of one thread: the right operand is packed once into a panel, then multiplied by
// many row tiles. linear and head split their work into fixed tiles over the thread pool, so
// results do not depend on the thread count. In this file M, N, K are rows, columns and inner size
// of a product.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/dtype.h"
#include "ops.h"

namespace lema::cpu {

// A matrix as a product sees it: element (r, c) is data[r * row_stride + c * col_stride]. One of
// the strides is 1, so a transposed matrix is the same bytes with the strides exchanged. F32, BF16
// or F16.
struct Operand {
  const void* data = nullptr;
  DType dtype = DType::F32;
  int64_t row_stride = 0, col_stride = 1;

  Operand from(int64_t r, int64_t c) const {
    return {
        static_cast<const char*>(data) + (r * row_stride + c * col_stride) * element_bytes(dtype),
        dtype, row_stride, col_stride};
  }
  Operand transposed() const { return {data, dtype, col_stride, row_stride}; }
};
inline Operand operand(const MatrixView& m) { return {m.data, m.dtype, m.stride, 1}; }
// A (rows, cols) tensor.
inline Operand operand(const TensorView& t) { return {t.data, t.dtype, t.shape[1], 1}; }
// f32 scratch whose rows are `stride` apart.
inline Operand operand(const float* data, int64_t stride) { return {data, DType::F32, stride, 1}; }

// A panel (K, N) is made of slivers of kSliver columns, each K rows long; the last one is rounded
// up to kLane columns.
inline constexpr int64_t kSliver = 48, kLane = 16;
inline int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }
// At least 16 rows: bf16 panels are padded to 32, at half the width.
inline int64_t panel_floats(int64_t K, int64_t N) {
  return std::max<int64_t>(K, 16) * round_up(N, kLane);
}
struct Panel {
  float* data = nullptr;
  int64_t K = 0;       // rows it was packed with
  int64_t first = 0;   // row where a product begins
  int64_t stride = 0;  // of the rows where they lie in memory as they are; 0: packed
  bool pairs = false;  // packed as gemm_bf16.h has it

  // Columns from n on, a multiple of kSliver; rows from k on, a multiple of 32. Parts of a panel
  // may be packed and used apart.
  Panel columns_from(int64_t n) const {
    Panel part = *this;
    part.data += stride > 0 ? n : panel_floats(K, n);
    return part;
  }
  Panel rows_from(int64_t k) const {
    Panel part = *this;
    part.first += k;
    return part;
  }
};
// An empty panel of K rows in panel_floats(K, N) floats, for a right operand of type b and products
// in X.
Panel panel_for(float* data, int64_t K, DType b, DType X);

// panel = B (panel.K, N), rounded to X (F32 or BF16) where it is of another type.
void pack_panel(const Panel& panel, const Operand& b, int64_t N, DType X);
// For few rows of A: B (K, N) where it lies if products can read it there, else packed into
// `panel`.
Panel panel_in_place(const Panel& panel, const Operand& b, int64_t N, DType X);

// Rows of A taken by one call at most, and floats of scratch it needs.
inline constexpr int64_t kTileRows = 128;
inline constexpr int64_t kInnerBlock = 128;
inline constexpr int64_t kMultiplyScratch = kTileRows * 288;

// A second product that is added to a first: A (M, K) as rows of bf16, stride apart, zeros up to a
// multiple of 32 columns and readable up to one of 16 rows; B (K, N) as a panel of pairs.
struct Addend {
  const bf16* a = nullptr;
  int64_t stride = 0;
  Panel panel;
};

// c (M, N) f32 (=|+=) A (M, K) B (K, N), M <= kTileRows. A is rounded to X where it is of another
// type; f32 sums, whose order depends on K alone. plus: where X is BF16 and the CPU has AMX.
void multiply(float* c, int64_t ldc, const Operand& a, const Panel& panel, int64_t M, int64_t N,
              int64_t K, Write write, DType X, float* scratch, const Addend* plus = nullptr);

}  // namespace lema::cpu
