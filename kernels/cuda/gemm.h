// Gemm: every matrix product of the backend outside attention. Products with aligned rows go to
// cuBLASLt with one workspace of fixed size and one algorithm per kind: sizes, tokens by their
// class (row_class), strides and types. It is chosen at its first use by the library's own rules,
// never by time or by address: so equal shapes give equal bits, wherever the operands lie, and no
// number of tokens needs a kernel that its class has not used before. The others, and sizes that
// the algorithm of their class refuses, go to a plain kernel. Used by linear, adapters and head.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <map>

#include "cuda/cublaslt.h"
#include "cuda/cuda_device.h"
#include "ops.h"

namespace lema::cuda {

// A matrix as it enters a product: element (i, j) is data[i * stride + j], or data[j * stride + i]
// when transposed.
struct Operand {
  const void* data = nullptr;
  DType dtype = DType::F32;
  int64_t stride = 0;
  bool transposed = false;

  Operand(const void* data_, DType dtype_, int64_t stride_)
      : data(data_), dtype(dtype_), stride(stride_) {}
  Operand(const MatrixView& m) : Operand(m.data, m.dtype, m.stride) {}  // NOLINT
  Operand turned() const {
    Operand out = *this;
    out.transposed = !transposed;
    return out;
  }
};

// d (M, N) = alpha a (M, K) b (K, N) + beta d + bias; f32 sums, one rounding to d's dtype. a, b one
// dtype X; d X or F32; bias (N) of d's dtype, or null.
struct Product {
  MatrixView d;
  Operand a, b;
  int64_t K;
  float alpha = 1, beta = 0;
  const void* bias = nullptr;
};

// The plain kernel: any layout and alignment; sums along K in order.
void plain_product(cudaStream_t stream, const Product& p);

class Gemm {
 public:
  static constexpr int64_t kWorkspaceBytes = 32 << 20;  // what cuBLAS advises for Hopper

  explicit Gemm(CudaDevice& device);
  ~Gemm();
  Gemm(const Gemm&) = delete;

  void run(const Product& p);
  int64_t bytes() const { return workspace_.bytes(); }

 private:
  // What decides an algorithm: sizes, strides, dtypes, transposes, whether d is read, a bias.
  struct Shape {
    int64_t M, N, K, d_stride, a_stride, b_stride;
    DType d, ab;
    bool a_transposed, b_transposed, accumulates, has_bias;
    auto operator<=>(const Shape&) const = default;
  };
  // The library's first operand, its second and its result, column by column: our b, a and d.
  static constexpr size_t kMatrices = 3;
  // Descriptors and algorithm of a kind; without one the plain kernel runs it. The layouts take the
  // sizes of each product that uses them.
  struct Choice {
    cublasLtMatmulDesc_t product = nullptr;
    std::array<cublasLtMatrixLayout_t, kMatrices> layouts = {};
    cublasLtMatmulAlgo_t algorithm;
    bool found = false;
  };
  struct Size {
    int64_t rows, cols;
  };
  static std::array<Size, kMatrices> sizes(const Shape& shape);
  static Shape kind_of(Shape shape);
  bool suits_library(const Product& p) const;
  const Choice& choice(const Shape& kind);
  Choice choose(const Shape& kind) const;
  cublasStatus_t multiply(const Choice& choice, const Product& p, const Shape& shape) const;

  CudaDevice& device_;
  const CublasLt& library_;
  cublasLtHandle_t handle_ = nullptr;
  Buffer workspace_;
  std::map<Shape, Choice> choices_;
};

}  // namespace lema::cuda
