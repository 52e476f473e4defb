// Row lookup with conversion from the table's dtype to the activations', and sums of rows the other
// way. The table may lie in page-locked host memory: rows then cross the bus in 16-byte accesses, or
// in smaller ones where the file has it at another byte.
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "cuda/elementwise.cuh"
#include "cuda/elementwise.h"
#include "cuda/types.cuh"
#include "dispatch.h"

namespace lema::cuda {
namespace {

// One element, at any byte.
template <typename G>
__device__ Floats<1> load_bytes(const std::byte* p) {
  alignas(G) std::byte bytes[sizeof(G)];
#pragma unroll
  for (size_t i = 0; i < sizeof(G); ++i) bytes[i] = p[i];
  return load<1>(reinterpret_cast<const G*>(bytes));
}

template <typename X, typename G>
struct Embedding {
  Rows<X> y;
  const int32_t* ids;
  const std::byte* table;
  bool is_aligned;  // at whole elements
  int64_t C;
  Write write;
  template <int N>
  __device__ void run(int64_t n, int64_t c) const {
    const std::byte* p = table + (int64_t{ids[n]} * C + c) * int64_t{sizeof(G)};
    if constexpr (N == 1)
      if (!is_aligned) return store<1>(y.at(n, c), load_bytes<G>(p), write);
    store<N>(y.at(n, c), load<N>(reinterpret_cast<const G*>(p)), write);
  }
};

constexpr int kThreads = 256;

// Block (n, part) owns the entry ids[n] when no row before n has that id, and adds its rows in
// their order. Each warp looks for them on its own, 32 ids at a time.
template <int N, typename X>
__global__ void __launch_bounds__(kThreads)
    add_rows(float* d_table, const int32_t* ids, Rows<X> dy, int64_t rows, int64_t C) {
  const int64_t first = blockIdx.x;
  const int32_t id = ids[first];
  bool is_earlier = false;
  for (int64_t n = threadIdx.x; n < first; n += kThreads) is_earlier |= ids[n] == id;
  if (__syncthreads_or(is_earlier)) return;
  const int64_t c = (int64_t{blockIdx.y} * kThreads + threadIdx.x) * N;
  float* entry = d_table + int64_t{id} * C + c;
  Floats<N> sum;
  if (c < C) sum = load<N>(entry);
  for (int64_t begin = first; begin < rows; begin += 32) {
    const int64_t n = begin + threadIdx.x % 32;
    unsigned same = __ballot_sync(0xffffffffu, n < rows && ids[n] == id);
    for (; same != 0; same &= same - 1) {
      if (c >= C) continue;
      const Floats<N> row = load<N>(dy.at(begin + __ffs(static_cast<int>(same)) - 1, c));
#pragma unroll
      for (int i = 0; i < N; ++i) sum[i] += row[i];
    }
  }
  if (c < C) store<N>(entry, sum);
}

}  // namespace

void embedding(cudaStream_t stream, MatrixView y, TensorView ids, TensorView table, Write write) {
  with_storage(y.dtype, [&]<typename X>(Type<X>) {
    with_storage(table.dtype, [&]<typename G>(Type<G>) {
      for_elements<kPack<X>>(
          stream, "embedding", y.rows, y.cols, is_packed(y) && is_packed(table, y.dtype),
          Embedding<X, G>{y, static_cast<const int32_t*>(ids.data),
                          static_cast<const std::byte*>(table.data),
                          reinterpret_cast<uintptr_t>(table.data) % sizeof(G) == 0, y.cols,
                          write});
    });
  });
}

void embedding_backward(cudaStream_t stream, TensorView d_table, TensorView ids, MatrixView dy) {
  if (dy.rows == 0) return;
  const auto* id = static_cast<const int32_t*>(ids.data);
  with_storage(dy.dtype, [&]<typename X>(Type<X>) {
    const auto launch = [&]<int N>(std::integral_constant<int, N>) {
      const int64_t parts = (dy.cols + kThreads * N - 1) / (kThreads * N);
      const dim3 blocks(static_cast<unsigned>(dy.rows), static_cast<unsigned>(parts));
      add_rows<N, X>
          <<<blocks, kThreads, 0, stream>>>(d_table.as<float>(), id, dy, dy.rows, dy.cols);
    };
    if (is_packed(dy) && is_packed(d_table, dy.dtype))
      launch(std::integral_constant<int, kPack<X>>());
    else
      launch(std::integral_constant<int, 1>());
    check_launch("embedding_backward");
  });
}

}  // namespace lema::cuda
