// Dequantisation of GGUF blocks to f32. Every product here is exact in f32 (an 11-bit scale times
// at most 8 bits), so the one rounding is that of the sum with the minimum and fused multiply-add
// changes no bit.
#include <array>
#include <bit>
#include <cstring>

#include "core/dtype.h"
#include "core/error.h"
#include "formats/gguf.h"

namespace lema {
namespace {

static_assert(std::endian::native == std::endian::little,
              "blocks are read as they lie in the file");

// Type ids of ggml that this file decodes.
enum class Id : uint32_t {
  F32 = 0,
  F16 = 1,
  Q4_0 = 2,
  Q4_1 = 3,
  Q5_0 = 6,
  Q5_1 = 7,
  Q8_0 = 8,
  BF16 = 30
};

template <typename T>
T load(const std::byte* at) {
  T x;
  std::memcpy(&x, at, sizeof x);
  return x;
}

float half(const std::byte* at) { return to_f32(f16{load<uint16_t>(at)}); }

template <typename T>
void widen(const std::byte* in, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = to_f32(load<T>(in + i * int64_t{sizeof(T)}));
}

// d, 32 signed bytes: q * d.
void dequantise_q8_0(const std::byte* block, float* out) {
  const float d = half(block);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(load<int8_t>(block + 2 + i));
}

// d, [m,] [u32 fifth bits,] 16 bytes whose low nibbles are values 0-15 and whose high nibbles are
// 16-31. With m: q * d + m; without: (q - half the range) * d.
template <bool kMinimum, bool kFifthBit>
void dequantise_nibbles(const std::byte* block, float* out) {
  const float d = half(block);
  block += 2;
  float m = 0;
  if constexpr (kMinimum) {
    m = half(block);
    block += 2;
  }
  uint32_t fifth = 0;
  if constexpr (kFifthBit) {
    fifth = load<uint32_t>(block);
    block += 4;
  }
  constexpr int kZero = kFifthBit ? 16 : 8;
  const auto value = [&](uint32_t nibble, int i) {
    const auto q = static_cast<int>(nibble | ((fifth >> i) & 1u) << 4);
    if constexpr (kMinimum) return d * static_cast<float>(q) + m;
    return d * static_cast<float>(q - kZero);
  };
  for (int i = 0; i < 16; ++i) {
    const auto pair = load<uint8_t>(block + i);
    out[i] = value(pair & 15u, i);
    out[i + 16] = value(pair >> 4u, i + 16);
  }
}

void dequantise_blocks(void (*one)(const std::byte*, float*), const GgmlType& type,
                       const std::byte* in, int64_t blocks, float* out) {
  for (int64_t i = 0; i < blocks; ++i) one(in + i * type.bytes, out + i * type.values);
}

}  // namespace

std::string_view dequantisable_types() { return "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1"; }

bool can_dequantise(const GgmlType& type) {
  switch (static_cast<Id>(type.id)) {
    case Id::F32:
    case Id::F16:
    case Id::BF16:
    case Id::Q8_0:
    case Id::Q4_0:
    case Id::Q4_1:
    case Id::Q5_0:
    case Id::Q5_1:
      return true;
  }
  return false;
}

void dequantise(const GgmlType& type, const std::byte* in, int64_t blocks, float* out) {
  switch (static_cast<Id>(type.id)) {
    case Id::F32:
      std::memcpy(out, in, static_cast<size_t>(blocks) * sizeof(float));
      return;
    case Id::F16:
      return widen<f16>(in, blocks, out);
    case Id::BF16:
      return widen<bf16>(in, blocks, out);
    case Id::Q8_0:
      return dequantise_blocks(dequantise_q8_0, type, in, blocks, out);
    case Id::Q4_0:
      return dequantise_blocks(dequantise_nibbles<false, false>, type, in, blocks, out);
    case Id::Q4_1:
      return dequantise_blocks(dequantise_nibbles<true, false>, type, in, blocks, out);
    case Id::Q5_0:
      return dequantise_blocks(dequantise_nibbles<false, true>, type, in, blocks, out);
    case Id::Q5_1:
      return dequantise_blocks(dequantise_nibbles<true, true>, type, in, blocks, out);
  }
  fail(ErrorCode::Internal, "no dequantisation of {}", type.name);
}

}  // namespace lema
