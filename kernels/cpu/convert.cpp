// Branch-free conversions, so that the compiler vectorises them. Called by gemm, linear, head and fill.
#include "cpu/convert.h"

#include <bit>
#include <cstring>

#include "core/error.h"
#include "cpu/clones.h"

namespace lema::cpu {
namespace {

LEMA_CLONES void widen_bf16(float* out, const uint16_t* in, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = std::bit_cast<float>(uint32_t{in[i]} << 16);
}

// binary16 by integer shifts: 2^112 moves the exponent's bias from 15 to 127, subnormals included.
LEMA_CLONES void widen_f16(float* out, const uint16_t* in, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t magnitude = in[i] & 0x7fffu, sign = (in[i] & 0x8000u) << 16;
    const auto value = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude << 13) * 0x1p112f);
    const uint32_t special = magnitude >= 0x7c00u ? 0x7f800000u : 0u;  // inf and NaN
    out[i] = std::bit_cast<float>(value | special | sign);
  }
}

inline uint32_t bf16_bits(float x) {
  const auto u = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16, quiet = (u >> 16) | 0x40u;
  return (u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded;
}

LEMA_CLONES void narrow_bf16(uint16_t* out, const float* in, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<uint16_t>(bf16_bits(in[i]));
}

LEMA_CLONES void round_bf16(float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] = std::bit_cast<float>(bf16_bits(x[i]) << 16);
}

}  // namespace

void widen(float* out, const void* in, DType dtype, int64_t n) {
  switch (dtype) {
    case DType::F32: std::memcpy(out, in, static_cast<size_t>(n) * sizeof(float)); return;
    case DType::BF16: widen_bf16(out, static_cast<const uint16_t*>(in), n); return;
    case DType::F16: widen_f16(out, static_cast<const uint16_t*>(in), n); return;
    default: fail(ErrorCode::Internal, "cannot compute on {}", name(dtype));
  }
}

void narrow(void* out, DType dtype, const float* in, int64_t n) {
  switch (dtype) {
    case DType::F32: std::memcpy(out, in, static_cast<size_t>(n) * sizeof(float)); return;
    case DType::BF16: narrow_bf16(static_cast<uint16_t*>(out), in, n); return;
    case DType::F16:
      for (int64_t i = 0; i < n; ++i) static_cast<f16*>(out)[i] = to_f16(in[i]);
      return;
    default: fail(ErrorCode::Internal, "cannot store {}", name(dtype));
  }
}

void round_in_place(float* x, DType dtype, int64_t n) {
  if (dtype == DType::BF16) round_bf16(x, n);
}

void widen_operand(float* out, const void* in, DType dtype, DType X, int64_t n) {
  widen(out, in, dtype, n);
  if (dtype != X) round_in_place(out, X, n);
}

}  // namespace lema::cpu
