// A matrix in another storage type, scaled or added, and a tensor of one value.
#include "cuda/elementwise.cuh"
#include "cuda/elementwise.h"
#include "cuda/types.cuh"
#include "dispatch.h"

namespace lema::cuda {
namespace {

template <typename To, typename From>
struct Convert {
  Rows<To> to;
  Rows<From> from;
  int64_t cols;  // of `from`
  template <int N>
  __device__ void run(int64_t n, int64_t c) const {
    store<N>(to.at(n, c), c < cols ? load<N>(from.at(n, c)) : Floats<N>{});
  }
};

template <typename X>
struct Scale {
  Rows<X> to;
  Rows<float> from;
  float factor;
  template <int N>
  __device__ void run(int64_t n, int64_t c) const {
    Floats<N> x = load<N>(from.at(n, c));
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] *= factor;
    store<N>(to.at(n, c), x);
  }
};

template <typename X>
struct AddF32 {
  Rows<X> y;
  Rows<float> x;
  Write write;
  template <int N>
  __device__ void run(int64_t n, int64_t c) const {
    store<N>(y.at(n, c), load<N>(x.at(n, c)), write);
  }
};

template <typename X>
struct Fill {
  X* data;
  float value;
  template <int N>
  __device__ void run(int64_t, int64_t c) const {
    Floats<N> values;
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = value;
    store<N>(data + c, values);
  }
};

}  // namespace

void convert(cudaStream_t stream, MatrixView to, MatrixView from) {
  with_storage(to.dtype, [&]<typename To>(Type<To>) {
    with_storage(from.dtype, [&]<typename From>(Type<From>) {
      constexpr int N = kPack<To> < kPack<From> ? kPack<To> : kPack<From>;
      for_elements<N>(stream, "convert", to.rows, to.cols,
                      is_packed(to) && is_packed(from) && from.cols % N == 0,
                      Convert<To, From>{to, from, from.cols});
    });
  });
}

void scale(cudaStream_t stream, MatrixView to, MatrixView from, float factor) {
  with_storage(to.dtype, [&]<typename X>(Type<X>) {
    for_elements<4>(stream, "scale", to.rows, to.cols, is_packed(to) && is_packed(from),
                    Scale<X>{to, from, factor});
  });
}

void add_f32(cudaStream_t stream, MatrixView y, MatrixView x, Write write) {
  with_storage(y.dtype, [&]<typename X>(Type<X>) {
    for_elements<4>(stream, "add_f32", y.rows, y.cols, is_packed(y) && is_packed(x),
                    AddF32<X>{y, x, write});
  });
}

void fill(cudaStream_t stream, TensorView x, float value) {
  const int64_t n = x.elements();
  with_storage(x.dtype, [&]<typename X>(Type<X>) {
    const int64_t packs = reinterpret_cast<uintptr_t>(x.data) % 16 == 0 ? n / kPack<X> : 0;
    X* data = x.as<X>();
    launch_packs<kPack<X>>(stream, "fill", 1, packs * kPack<X>, Fill<X>{data, value});
    launch_packs<1>(stream, "fill", 1, n - packs * kPack<X>,
                    Fill<X>{data + packs * kPack<X>, value});
  });
}

}  // namespace lema::cuda
