// The product for any layout and alignment: 64 x 64 tiles of d, 16 of K at a time through shared
// memory in f32. For shapes that cuBLASLt does not take, such as odd row lengths.
#include "cuda/check.h"
#include "cuda/gemm.h"
#include "cuda/types.cuh"
#include "dispatch.h"

namespace lema::cuda {
namespace {

constexpr int kTile = 64, kStep = 16;

// An operand with its strides along both sides.
template <typename X>
struct Side {
  const X* data;
  int64_t row, col;
  explicit Side(const Operand& m)
      : data(static_cast<const X*>(m.data)),
        row(m.transposed ? 1 : m.stride),
        col(m.transposed ? m.stride : 1) {}
  __device__ float at(int64_t i, int64_t j) const { return to_float(data[i * row + j * col]); }
};

template <typename D, typename X>
__global__ void __launch_bounds__(256)
    product(Rows<D> d, int64_t M, int64_t N, Side<X> a, Side<X> b, int64_t K, float alpha,
            float beta, const D* bias) {
  __shared__ float left[kStep][kTile + 1], right[kStep][kTile + 1];
  const int64_t m0 = int64_t{blockIdx.y} * kTile, n0 = int64_t{blockIdx.x} * kTile;
  const int tm = threadIdx.x / 16, tn = threadIdx.x % 16;
  float sum[4][4] = {}, total[4][4] = {};  // of up to 256 products, and of these sums
  for (int64_t k0 = 0; k0 < K; k0 += kStep) {
    // Neighbouring threads read along the side that lies together in memory.
    for (int i = threadIdx.x; i < kTile * kStep; i += 256) {
      const int am = a.col == 1 ? i / kStep : i % kTile, ak = a.col == 1 ? i % kStep : i / kTile;
      left[ak][am] = m0 + am < M && k0 + ak < K ? a.at(m0 + am, k0 + ak) : 0.0f;
      const int bn = b.row == 1 ? i / kStep : i % kTile, bk = b.row == 1 ? i % kStep : i / kTile;
      right[bk][bn] = n0 + bn < N && k0 + bk < K ? b.at(k0 + bk, n0 + bn) : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kStep; ++k) {
      float x[4], y[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) x[i] = left[k][tm + 16 * i], y[i] = right[k][tn + 16 * i];
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[i][j] += x[i] * y[j];
    }
    if (k0 / kStep % 16 == 15 || k0 + kStep >= K)
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        total[i / 4][i % 4] += sum[i / 4][i % 4];
        sum[i / 4][i % 4] = 0;
      }
    __syncthreads();
  }
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) {
      const int64_t m = m0 + tm + 16 * i, n = n0 + tn + 16 * j;
      if (m >= M || n >= N) continue;
      float out = alpha * total[i][j];
      if (beta != 0) out += beta * to_float(*d.at(m, n));
      if (bias != nullptr) out += to_float(bias[n]);
      *d.at(m, n) = from_float<D>(out);
    }
}

}  // namespace

void plain_product(cudaStream_t stream, const Product& p) {
  const int64_t M = p.d.rows, N = p.d.cols;
  const dim3 blocks(static_cast<unsigned>((N + kTile - 1) / kTile),
                    static_cast<unsigned>((M + kTile - 1) / kTile));
  check(blocks.y <= 65535, "a product of {} rows", M);
  const auto launch = [&]<typename D, typename X>(Type<D>, Type<X>) {
    product<D, X><<<blocks, 256, 0, stream>>>(p.d, M, N, Side<X>(p.a), Side<X>(p.b), p.K, p.alpha,
                                              p.beta, static_cast<const D*>(p.bias));
  };
  with_storage(p.a.dtype, [&]<typename X>(Type<X> type) {
    if (p.d.dtype == DType::F32)
      launch(Type<float>{}, type);
    else
      launch(type, type);
  });
  check_launch("plain_product");
}

}  // namespace lema::cuda
