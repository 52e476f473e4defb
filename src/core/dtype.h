// Element types of tensors in files and in memory, and the 16-bit float conversions.
#pragma once

#include <bit>
#include <cstdint>
#include <optional>
#include <string_view>

namespace lema {

// The 22 dtypes of safetensors, ascending in its writer's order. Kernels compute on F32, BF16 and
// F16 only.
enum class DType : uint8_t {
  Bool,
  F4,
  F6E2M3,
  F6E3M2,
  U8,
  I8,
  F8E5M2,
  F8E4M3,
  F8E8M0,
  F8E4M3FNUZ,
  F8E5M2FNUZ,
  I16,
  U16,
  F16,
  BF16,
  I32,
  U32,
  F32,
  C64,
  F64,
  I64,
  U64,
};

int bits(DType dtype);
// The safetensors spelling, e.g. "BF16".
std::string_view name(DType dtype);
std::optional<DType> parse_dtype(std::string_view name);
// Bytes of one element; Internal error for sub-byte types.
int64_t whole_bytes(DType dtype);
inline int64_t element_bytes(DType dtype) {
  if (dtype == DType::F32) return 4;  // what kernels ask for
  return dtype == DType::BF16 || dtype == DType::F16 ? 2 : whole_bytes(dtype);
}

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

inline float to_f32(bf16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }

// Round to nearest, ties to even; NaN stays NaN (quiet).
inline bf16 to_bf16(float x) {
  const auto u = std::bit_cast<uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((u >> 16) | 0x40u)};
  return {static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

// IEEE binary16 through the compiler's _Float16 (exact; round to nearest even back).
inline float to_f32(f16 x) { return static_cast<float>(std::bit_cast<_Float16>(x.bits)); }
inline f16 to_f16(float x) { return {std::bit_cast<uint16_t>(static_cast<_Float16>(x))}; }

inline float to_f32(float x) { return x; }

// from_f32<T>(x): T is float, bf16 or f16.
template <typename T>
T from_f32(float x);
template <>
inline float from_f32<float>(float x) {
  return x;
}
template <>
inline bf16 from_f32<bf16>(float x) {
  return to_bf16(x);
}
template <>
inline f16 from_f32<f16>(float x) {
  return to_f16(x);
}

template <typename T>
inline constexpr DType kDTypeOf = DType::F32;
template <>
inline constexpr DType kDTypeOf<bf16> = DType::BF16;
template <>
inline constexpr DType kDTypeOf<f16> = DType::F16;

}  // namespace lema
