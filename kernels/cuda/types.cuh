// Storage types on the device: conversions to and from f32, and packs of several elements that move
// in 16-byte accesses. Arithmetic is f32 everywhere.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "core/dtype.h"
#include "ops.h"

namespace lema::cuda {

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bf16 x) { return __uint_as_float(uint32_t{x.bits} << 16); }
__device__ inline float to_float(f16 x) { return __half2float(__ushort_as_half(x.bits)); }

// Round to nearest even, once.
template <typename T>
__device__ T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline bf16 from_float<bf16>(float x) {
  return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
}
template <>
__device__ inline f16 from_float<f16>(float x) {
  return {__half_as_ushort(__float2half_rn(x))};
}

// x rounded to X, as f32.
template <typename X>
__device__ float rounded_to(float x) {
  return to_float(from_float<X>(x));
}

// Elements of one 16-byte access.
template <typename T>
inline constexpr int kPack = 16 / static_cast<int>(sizeof(T));

// Moved as one access of sizeof(T) * N bytes, 16 at most.
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T v[N];
};

template <int N>
struct Floats {
  float v[N];
  __device__ float& operator[](int i) { return v[i]; }
  __device__ float operator[](int i) const { return v[i]; }
};

template <int N, typename T>
__device__ Floats<N> load(const T* p) {
  constexpr int kPart = N < kPack<T> ? N : kPack<T>;
  Floats<N> out;
#pragma unroll
  for (int i = 0; i < N; i += kPart) {
    const auto part = *reinterpret_cast<const Pack<T, kPart>*>(p + i);
#pragma unroll
    for (int j = 0; j < kPart; ++j) out[i + j] = to_float(part.v[j]);
  }
  return out;
}

template <int N, typename T>
__device__ void store(T* p, const Floats<N>& x) {
  constexpr int kPart = N < kPack<T> ? N : kPack<T>;
#pragma unroll
  for (int i = 0; i < N; i += kPart) {
    Pack<T, kPart> part;
#pragma unroll
    for (int j = 0; j < kPart; ++j) part.v[j] = from_float<T>(x[i + j]);
    *reinterpret_cast<Pack<T, kPart>*>(p + i) = part;
  }
}

// As store; with Write::Accumulate the sum with what is there.
template <int N, typename T>
__device__ void store(T* p, Floats<N> x, Write write) {
  if (write == Write::Accumulate) {
    const Floats<N> before = load<N>(p);
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] += before[i];
  }
  store<N>(p, x);
}

// The rows of a MatrixView, for kernels.
template <typename T>
struct Rows {
  T* data;
  int64_t stride;
  Rows(const MatrixView& m) : data(static_cast<T*>(m.data)), stride(m.stride) {}  // NOLINT
  __device__ T* at(int64_t row, int64_t col) const { return data + row * stride + col; }
};

// A vector whose type, F32, BF16 or F16, is told apart when it is read.
struct AnyVector {
  const void* data;
  DType dtype;
  AnyVector(const TensorView& t) : data(t.data), dtype(t.dtype) {}  // NOLINT
  template <int N>
  __device__ Floats<N> at(int64_t i) const {
    if (dtype == DType::F32) return load<N>(static_cast<const float*>(data) + i);
    if (dtype == DType::BF16) return load<N>(static_cast<const bf16*>(data) + i);
    return load<N>(static_cast<const f16*>(data) + i);
  }
};

// Whether every run of 16 / sizeof(element) columns, counted from column 0, is one aligned access.
inline bool is_packed(const MatrixView& m, int64_t cols) {
  const int64_t item = element_bytes(m.dtype);
  return reinterpret_cast<uintptr_t>(m.data) % 16 == 0 && m.stride * item % 16 == 0 &&
         cols * item % 16 == 0;
}
inline bool is_packed(const MatrixView& m) { return is_packed(m, m.cols); }

// The same of a vector that is read beside elements of `activation`, as many at a time.
inline bool is_packed(const TensorView& t, DType activation) {
  const int64_t step = 16 / element_bytes(activation) * element_bytes(t.dtype);
  return reinterpret_cast<uintptr_t>(t.data) % static_cast<uintptr_t>(step < 16 ? step : 16) == 0;
}

}  // namespace lema::cuda
