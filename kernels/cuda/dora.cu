// Gains as element-wise kernels; a column's product is summed by eight threads over every eighth
// row, then over the eight in order.
#include "cuda/dora.h"
#include "cuda/elementwise.cuh"
#include "cuda/types.cuh"
#include "dispatch.h"

namespace lema::cuda {
namespace {

struct Gains {
  float* g;
  const float *magnitude, *norm;
  template <int N>
  __device__ void run(int64_t, int64_t o) const {
    g[o] = magnitude[o] / norm[o];
  }
};

template <typename X>
struct ScaleRows {
  Rows<X> to;
  Rows<float> from;
  const float* g;
  int64_t cols;  // of `from`
  template <int N>
  __device__ void run(int64_t o, int64_t c) const {
    *to.at(o, c) = from_float<X>(c < cols ? g[o] * *from.at(o, c) : 0.0f);
  }
};

struct AddScaledRows {
  Rows<float> to, from;
  const float* g;
  template <int N>
  __device__ void run(int64_t o, int64_t c) const {
    *to.at(o, c) += g[o] * *from.at(o, c);
  }
};

template <typename X>
struct ScaleColumns {
  Rows<X> to, from;
  Gain gain;
  template <int N>
  __device__ void run(int64_t n, int64_t c) const {
    Floats<N> x = load<N>(from.at(n, c));
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] *= gain.a * gain.g[c + i] + gain.b;
    store<N>(to.at(n, c), x);
  }
};

constexpr int kColumns = 32, kRowGroups = 8;  // of a block

template <typename X>
__global__ void __launch_bounds__(kColumns* kRowGroups)
    column_products(float* out, Rows<X> dy, Rows<float> z, int64_t rows, int64_t cols,
                    const float* norm) {
  const int64_t c = int64_t{blockIdx.x} * kColumns + threadIdx.x;
  float sum = 0;
  if (c < cols)
    for (int64_t n = threadIdx.y; n < rows; n += kRowGroups)
      sum += to_float(*dy.at(n, c)) * *z.at(n, c);
  __shared__ float sums[kRowGroups][kColumns];
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || c >= cols) return;
  for (int group = 1; group < kRowGroups; ++group) sum += sums[group][threadIdx.x];
  out[c] += sum / norm[c];
}

}  // namespace

void gains(cudaStream_t stream, float* g, TensorView magnitude, TensorView norm) {
  launch_packs<1>(stream, "gains", 1, magnitude.elements(),
                  Gains{g, magnitude.as<float>(), norm.as<float>()});
}

void scale_rows(cudaStream_t stream, MatrixView to, MatrixView from, const float* g) {
  with_storage(to.dtype, [&]<typename X>(Type<X>) {
    launch_packs<1>(stream, "scale_rows", to.rows, to.cols, ScaleRows<X>{to, from, g, from.cols});
  });
}

void add_scaled_rows(cudaStream_t stream, MatrixView to, MatrixView from, const float* g) {
  launch_packs<1>(stream, "add_scaled_rows", to.rows, to.cols, AddScaledRows{to, from, g});
}

void scale_columns(cudaStream_t stream, MatrixView to, MatrixView from, Gain gain) {
  with_storage(to.dtype, [&]<typename X>(Type<X>) {
    for_elements<kPack<X>>(stream, "scale_columns", to.rows, to.cols,
                           is_packed(to) && is_packed(from), ScaleColumns<X>{to, from, gain});
  });
}

void add_column_products(cudaStream_t stream, float* out, MatrixView dy, MatrixView z,
                         const float* norm) {
  if (dy.rows == 0) return;
  with_storage(dy.dtype, [&]<typename X>(Type<X>) {
    column_products<X>
        <<<static_cast<unsigned>((dy.cols + kColumns - 1) / kColumns), dim3(kColumns, kRowGroups),
           0, stream>>>(out, dy, z, dy.rows, dy.cols, norm);
    check_launch("column_products");
  });
}

}  // namespace lema::cuda
