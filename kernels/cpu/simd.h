// Vectors of W floats and the loops over rows that the CPU kernels are made of. A kernel is written
// once for any W; vectorised() runs it with the widest instruction set of this CPU. Every kernel
// file in this folder uses it.
//
// GCC vector types: arithmetic, comparisons and ?: are element-wise. 16-bit storage is widened to
// f32 on load and rounded to nearest even on store. Everything is inlined into the function that
// carries the instruction set, so a body given to vectorised() or for_rows() calls nothing that can
// fail: an inlined error message is a large one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>
#include <utility>

#include "core/dtype.h"
#include "core/thread_pool.h"
#include "cpu/isa.h"
#include "ops.h"

namespace lema::cpu {

template <int W>
struct Lanes {
  static constexpr int kCount = W;
  typedef float F __attribute__((vector_size(4 * W)));
  typedef int32_t I __attribute__((vector_size(4 * W)));
  typedef uint32_t U __attribute__((vector_size(4 * W)));
  typedef uint16_t H __attribute__((vector_size(2 * W)));
};
template <int W>
using Floats = typename Lanes<W>::F;
template <int W>
using Ints = typename Lanes<W>::I;

// Number of elements of a load or store: all W, known to the compiler, or the n < W of a row's end.
template <int W>
using Full = std::integral_constant<int, W>;

template <int W>
[[gnu::always_inline]] inline Floats<W> broadcast(float x) {
  return Floats<W>{} + x;
}

template <int W>
[[gnu::always_inline]] inline Ints<W> lane_index() {
  Ints<W> index{};
  for (int i = 0; i < W; ++i) index[i] = i;
  return index;
}

template <int W>
[[gnu::always_inline]] inline Floats<W> load(const float* p) {
  Floats<W> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// Each number twice, and the lower copy cleared: two instructions, which a conversion of integers
// and a shift are not.
template <int W, int... I>
[[gnu::always_inline]] inline Floats<W> widened(typename Lanes<W>::H half,
                                                std::integer_sequence<int, I...>) {
  const auto twice = __builtin_shufflevector(half, half, (I / 2)...);
  return reinterpret_cast<Floats<W>>(reinterpret_cast<typename Lanes<W>::U>(twice) & 0xffff0000u);
}
template <int W>
[[gnu::always_inline]] inline Floats<W> load(const bf16* p) {
  typename Lanes<W>::H half;
  std::memcpy(&half, p, sizeof half);
  return widened<W>(half, std::make_integer_sequence<int, 2 * W>{});
}

// binary16 has 5 exponent bits with bias 15: shifted into place the value is 2^-112 of the true one
// (exact, zeros and subnormals included); exponent 31 becomes the f32 exponent of infinities and
// NaN.
template <int W>
[[gnu::always_inline]] inline Floats<W> load(const f16* p) {
  using U = typename Lanes<W>::U;
  typename Lanes<W>::H half;
  std::memcpy(&half, p, sizeof half);
  const U bits = __builtin_convertvector(half, U);
  const U magnitude = (bits & 0x7fffu) << 13, sign = (bits & 0x8000u) << 16;
  const U finite = reinterpret_cast<U>(reinterpret_cast<Floats<W>>(magnitude) * 0x1p112f);
  const U special = magnitude | 0x7f800000u;
  return reinterpret_cast<Floats<W>>(sign | (magnitude >= 0x0f800000u ? special : finite));
}

template <int W>
[[gnu::always_inline]] inline void store(float* p, Floats<W> v) {
  std::memcpy(p, &v, sizeof v);
}

// The upper halves are v in bf16 as to_bf16 gives it: nearest even, NaN quiet.
template <int W>
[[gnu::always_inline]] inline typename Lanes<W>::U rounded_bits(Floats<W> v) {
  using U = typename Lanes<W>::U;
  const U bits = reinterpret_cast<U>(v);
  return v != v ? bits | 0x400000u : bits + 0x7fffu + ((bits >> 16) & 1u);
}
template <int W>
[[gnu::always_inline]] inline void store(bf16* p, Floats<W> v) {
  const auto half = __builtin_convertvector(rounded_bits<W>(v) >> 16, typename Lanes<W>::H);
  std::memcpy(p, &half, sizeof half);
}

// The upper half of every number of a, then of b: 2 W elements of 16 bits.
template <int W, int... I>
[[gnu::always_inline]] inline typename Lanes<2 * W>::H upper_halves(
    typename Lanes<W>::U a, typename Lanes<W>::U b, std::integer_sequence<int, I...>) {
  using Halves = typename Lanes<2 * W>::H;
  return __builtin_shufflevector(reinterpret_cast<Halves>(a), reinterpret_cast<Halves>(b),
                                 (2 * I + 1)...);
}
template <int W>
[[gnu::always_inline]] inline typename Lanes<2 * W>::H upper_halves(typename Lanes<W>::U a,
                                                                    typename Lanes<W>::U b) {
  return upper_halves<W>(a, b, std::make_integer_sequence<int, 2 * W>{});
}

// n elements; lanes past them are 0.
template <int W, typename T, typename Count>
[[gnu::always_inline]] inline Floats<W> load(const T* p, Count n) {
  if constexpr (std::is_same_v<Count, Full<W>>) {
    return load<W>(p);
  } else {
    T part[W] = {};
    std::memcpy(part, p, static_cast<size_t>(n) * sizeof(T));
    return load<W>(part);
  }
}

template <int W, typename T, typename Count>
[[gnu::always_inline]] inline void store(T* p, Floats<W> v, Count n) {
  if constexpr (std::is_same_v<Count, Full<W>>) {
    store<W>(p, v);
  } else {
    T part[W];
    store<W>(part, v);
    std::memcpy(p, part, static_cast<size_t>(n) * sizeof(T));
  }
}

// p = v or p += v, one rounding.
template <int W, typename T, typename Count>
[[gnu::always_inline]] inline void store(T* p, Floats<W> v, Count n, Write write) {
  store<W>(p, write == Write::Accumulate ? v + load<W>(p, n) : v, n);
}

// v as it reads back after being stored as T.
template <int W, typename T>
[[gnu::always_inline]] inline Floats<W> rounded_to(Floats<W> v) {
  if constexpr (std::is_same_v<T, float>) return v;
  T stored[W];
  store<W>(stored, v);
  return load<W>(stored);
}

// Pairwise: halves are added until one element is left.
template <int W>
[[gnu::always_inline]] inline float sum(Floats<W> v) {
  float x[W];
  store<W>(x, v);
  for (int half = W / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) x[i] += x[i + half];
  return x[0];
}

// fn(c, n) over columns c = 0, W, 2W, ...: n elements from c on. What fn uses is best held in local
// variables: a store may alias the members of a captured view, which are then read again for each
// vector.
template <int W, typename Fn>
[[gnu::always_inline]] inline void for_columns(int64_t cols, Fn&& fn) {
  int64_t c = 0;
  for (; c + W <= cols; c += W) fn(c, Full<W>{});
  if (c < cols) fn(c, cols - c);
}

// Sum of term(c, n) over a row, in four running sums (an addition takes four cycles); lanes past n
// do not count.
template <int W, typename Term>
[[gnu::always_inline]] inline float sum_columns(int64_t cols, Term&& term) {
  Floats<W> acc[4] = {};
  int64_t c = 0;
  for (; c + 4 * W <= cols; c += 4 * W)
    for (int i = 0; i < 4; ++i) acc[i] += term(c + i * W, Full<W>{});
  for (; c + W <= cols; c += W) acc[0] += term(c, Full<W>{});
  if (c < cols) {
    const auto n = static_cast<int32_t>(cols - c);
    acc[1] += lane_index<W>() < n ? term(c, cols - c) : Floats<W>{};
  }
  return sum<W>((acc[0] + acc[1]) + (acc[2] + acc[3]));
}

template <typename Body>
[[gnu::flatten,
  gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")]] void
run_avx512(const Body& body) {
  body(Lanes<16>{});
}
template <typename Body>
[[gnu::flatten, gnu::target("avx2,fma")]] void run_avx2(const Body& body) {
  body(Lanes<8>{});
}
template <typename Body>
[[gnu::flatten]] void run_baseline(const Body& body) {
  body(Lanes<4>{});
}

// body(Lanes<W>{}), compiled for the instruction set in use.
template <typename Body>
void vectorised(const Body& body) {
  switch (isa()) {
    case Isa::Avx512:
      return run_avx512(body);
    case Isa::Avx2:
      return run_avx2(body);
    case Isa::Baseline:
      return run_baseline(body);
  }
}

template <typename T>
T* row(const MatrixView& m, int64_t n) {
  return static_cast<T*>(m.data) + n * m.stride;
}

// body(n, Lanes<W>{}) for each row, in blocks of about 32k elements: work for some microseconds.
template <typename Body>
void for_rows(ThreadPool& pool, int64_t rows, int64_t cols, const Body& body) {
  const int64_t block = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, cols));
  const auto run_block = [&](int64_t i) {
    vectorised([&](auto lanes) {
      for (int64_t n = i * block; n < std::min(rows, (i + 1) * block); ++n) body(n, lanes);
    });
  };
  pool.parallel_for((rows + block - 1) / block,
                    std::ref(run_block));  // by reference: std::function allocates nothing
}

}  // namespace lema::cpu
