// Conversions through the vector loads and stores of simd.h. Called by gemm, linear, head and fill.
#include "cpu/convert.h"

#include <immintrin.h>

#include <cstring>

#include "core/error.h"
#include "cpu/simd.h"

namespace lema::cpu {
namespace {

template <typename Out, typename In>
void convert(Out* out, const In* in, int64_t n) {
  vectorised([&](auto lanes) {
    constexpr int W = lanes.kCount;
    for_columns<W>(
        n, [&](int64_t i, auto count) { store<W>(out + i, load<W>(in + i, count), count); });
  });
}

constexpr int64_t kLine = 64;  // bytes that are written at once

[[gnu::target("avx512f")]] void stream(float* out, const float* in, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) _mm512_stream_ps(out + i, _mm512_loadu_ps(in + i));
}

// Two vectors to a line.
[[gnu::target("avx512f,avx512bw")]] void stream(bf16* out, const float* in, int64_t n) {
  for (int64_t i = 0; i < n; i += 32) {
    const auto line = upper_halves<16>(rounded_bits<16>(load<16>(in + i)),
                                       rounded_bits<16>(load<16>(in + i + 16)));
    _mm512_stream_si512(reinterpret_cast<__m512i*>(out + i), reinterpret_cast<__m512i>(line));
  }
}

}  // namespace

void widen(float* out, const void* in, DType dtype, int64_t n) {
  switch (dtype) {
    case DType::F32:
      std::memcpy(out, in, static_cast<size_t>(n) * sizeof(float));
      return;
    case DType::BF16:
      convert(out, static_cast<const bf16*>(in), n);
      return;
    case DType::F16:
      convert(out, static_cast<const f16*>(in), n);
      return;
    default:
      fail(ErrorCode::Internal, "cannot compute on {}", name(dtype));
  }
}

void narrow(void* out, DType dtype, const float* in, int64_t n) {
  switch (dtype) {
    case DType::F32:
      std::memcpy(out, in, static_cast<size_t>(n) * sizeof(float));
      return;
    case DType::BF16:
      convert(static_cast<bf16*>(out), in, n);
      return;
    case DType::F16:
      for (int64_t i = 0; i < n; ++i) static_cast<f16*>(out)[i] = to_f16(in[i]);
      return;
    default:
      fail(ErrorCode::Internal, "cannot store {}", name(dtype));
  }
}

void narrow_past_caches(void* out, DType dtype, const float* in, int64_t n) {
  const bool lines = reinterpret_cast<uintptr_t>(out) % kLine == 0 &&
                     n * element_bytes(dtype) % kLine == 0 && isa() == Isa::Avx512;
  if (lines && dtype == DType::BF16) return stream(static_cast<bf16*>(out), in, n);
  if (lines && dtype == DType::F32) return stream(static_cast<float*>(out), in, n);
  narrow(out, dtype, in, n);
}

void publish_past_caches() { _mm_sfence(); }

void round_in_place(float* x, DType dtype, int64_t n) {
  if (dtype != DType::BF16) return;
  vectorised([&](auto lanes) {
    constexpr int W = lanes.kCount;
    for_columns<W>(n, [&](int64_t i, auto count) {
      store<W>(x + i, rounded_to<W, bf16>(load<W>(x + i, count)), count);
    });
  });
}

void widen_operand(float* out, const void* in, DType dtype, DType X, int64_t n) {
  widen(out, in, dtype, n);
  if (dtype != X) round_in_place(out, X, n);
}

}  // namespace lema::cpu
