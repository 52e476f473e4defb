// Dequantisation of GGUF blocks to f32. Every product here is exact in f32 (an 11-bit scale times
// at most 8 bits; of K-quants 11 + 7 + 5 bits), so the one rounding is that of the sum with the
// minimum and fused multiply-add changes no bit.
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
  Q2_K = 10,
  Q3_K = 11,
  Q4_K = 12,
  Q5_K = 13,
  Q6_K = 14,
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

// The K-quants: 256 values in sub-blocks of 16 or 32, each with its own small integer scale.
constexpr int kSuperBlock = 256;

uint32_t byte_at(const std::byte* at, int i) { return std::to_integer<uint32_t>(at[i]); }

// 16 bytes of 4-bit scale (low) and minimum (high) for sub-blocks of 16; 64 bytes of 2 bits: byte l
// of each 32 holds values l, l + 32, l + 64, l + 96 of 128, lowest bits first; d, dmin.
// d * scale * q - dmin * minimum.
void dequantise_q2_k(const std::byte* block, float* out) {
  const std::byte* quants = block + 16;
  const float d = half(block + 80), dmin = half(block + 82);
  for (int i = 0; i < kSuperBlock; ++i) {
    const uint32_t scales = byte_at(block, i / 16);
    const uint32_t q = byte_at(quants, i / 128 * 32 + i % 32) >> (i % 128 / 32 * 2) & 3u;
    out[i] = d * static_cast<float>(scales & 15u) * static_cast<float>(q) -
             dmin * static_cast<float>(scales >> 4u);
  }
}

// Scale j of Q3_K's 16, of 6 bits and less 32: the low four bits are nibbles of bytes 0-7, the high
// two lie in bytes 8-11, four scales a byte.
int q3_k_scale(const std::byte* scales, int j) {
  const uint32_t low = byte_at(scales, j % 8) >> (j / 8 * 4) & 15u;
  const uint32_t high = byte_at(scales, 8 + j % 4) >> (j / 4 * 2) & 3u;
  return static_cast<int>(low | high << 4u) - 32;
}

// 32 bytes of third bits, bit i / 32 of byte i % 32; 64 bytes of 2 bits as in Q2_K; 12 bytes of
// scales; d. d * scale * q, q less 4 where the third bit is missing.
void dequantise_q3_k(const std::byte* block, float* out) {
  const std::byte *quants = block + 32, *scales = block + 96;
  const float d = half(block + 108);
  for (int i = 0; i < kSuperBlock; ++i) {
    const uint32_t low = byte_at(quants, i / 128 * 32 + i % 32) >> (i % 128 / 32 * 2) & 3u;
    const uint32_t third = byte_at(block, i % 32) >> (i / 32) & 1u;
    const int q = static_cast<int>(low) - (third != 0 ? 0 : 4);
    out[i] = d * static_cast<float>(q3_k_scale(scales, i / 16)) * static_cast<float>(q);
  }
}

// Scale and minimum j of the 8 of Q4_K and Q5_K, 6 bits each, in 12 bytes: the first four of each
// whole, with the high bits of the last four above them.
struct ScaleAndMinimum {
  float scale, minimum;
};
ScaleAndMinimum scale_and_minimum(const std::byte* scales, int j) {
  uint32_t scale = 0, minimum = 0;
  if (j < 4) {
    scale = byte_at(scales, j) & 63u;
    minimum = byte_at(scales, j + 4) & 63u;
  } else {
    const uint32_t low = byte_at(scales, j + 4);
    scale = (low & 15u) | byte_at(scales, j - 4) >> 6u << 4u;
    minimum = low >> 4u | byte_at(scales, j) >> 6u << 4u;
  }
  return {static_cast<float>(scale), static_cast<float>(minimum)};
}

// d, dmin, 12 bytes of scales, [32 bytes of fifth bits, bit j of byte l for value l of sub-block
// j,] 128 bytes of nibbles: of each 64 values the first 32 are low, the last 32 high. d * scale * q
// - dmin * minimum.
template <bool kFifthBit>
void dequantise_q4_or_5_k(const std::byte* block, float* out) {
  const float d = half(block), dmin = half(block + 2);
  const std::byte *scales = block + 4, *fifth = block + 16, *quants = fifth + (kFifthBit ? 32 : 0);
  for (int j = 0; j < 8; ++j) {
    const ScaleAndMinimum s = scale_and_minimum(scales, j);
    const float scale = d * s.scale, minimum = dmin * s.minimum;
    for (int l = 0; l < 32; ++l) {
      uint32_t q = byte_at(quants, j / 2 * 32 + l) >> (j % 2 * 4) & 15u;
      if constexpr (kFifthBit) q |= (byte_at(fifth, l) >> j & 1u) << 4u;
      out[j * 32 + l] = scale * static_cast<float>(q) - minimum;
    }
  }
}

// 128 bytes of low nibbles: of each 64 the low ones are values 0-63 of 128, the high ones 64-127;
// 64 bytes of bits 4-5: byte l of each 32 for values l, l + 32, l + 64, l + 96; 16 signed scales;
// d. d * scale * (q - 32).
void dequantise_q6_k(const std::byte* block, float* out) {
  const std::byte *high = block + 128, *scales = block + 192;
  const float d = half(block + 208);
  for (int i = 0; i < kSuperBlock; ++i) {
    const uint32_t low = byte_at(block, i / 128 * 64 + i % 64) >> (i % 128 / 64 * 4) & 15u;
    const uint32_t top = byte_at(high, i / 128 * 32 + i % 32) >> (i % 128 / 32 * 2) & 3u;
    const auto scale = static_cast<float>(load<int8_t>(scales + i / 16));
    out[i] = d * scale * static_cast<float>(static_cast<int>(low | top << 4u) - 32);
  }
}

void dequantise_blocks(void (*one)(const std::byte*, float*), const GgmlType& type,
                       const std::byte* in, int64_t blocks, float* out) {
  for (int64_t i = 0; i < blocks; ++i) one(in + i * type.bytes, out + i * type.values);
}

}  // namespace

std::string_view dequantisable_types() {
  return "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K";
}

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
    case Id::Q2_K:
    case Id::Q3_K:
    case Id::Q4_K:
    case Id::Q5_K:
    case Id::Q6_K:
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
    case Id::Q2_K:
      return dequantise_blocks(dequantise_q2_k, type, in, blocks, out);
    case Id::Q3_K:
      return dequantise_blocks(dequantise_q3_k, type, in, blocks, out);
    case Id::Q4_K:
      return dequantise_blocks(dequantise_q4_or_5_k<false>, type, in, blocks, out);
    case Id::Q5_K:
      return dequantise_blocks(dequantise_q4_or_5_k<true>, type, in, blocks, out);
    case Id::Q6_K:
      return dequantise_blocks(dequantise_q6_k, type, in, blocks, out);
  }
  fail(ErrorCode::Internal, "no dequantisation of {}", type.name);
}

}  // namespace lema
