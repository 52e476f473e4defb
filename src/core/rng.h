// Philox4x32-10: the counter-based generator behind every random choice, so that a resumed or
// recomputed draw is the same draw. Ref: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2,
// 3", SC11.
#pragma once

#include <array>
#include <cstdint>

#include "core/host_device.h"

namespace lema {

// Streams keep the uses of one seed apart; a value is never renumbered, checkpoints rely on it.
enum class RngStream : uint32_t { AdapterInit = 1, Shuffle = 2, Dropout = 3, Sampler = 4 };

// Four random words for (seed, stream, a, b). Pure function of its arguments.
LEMA_HD inline std::array<uint32_t, 4> philox(uint64_t seed, RngStream stream, uint64_t a,
                                              uint32_t b = 0) {
  std::array<uint32_t, 4> c = {static_cast<uint32_t>(a), static_cast<uint32_t>(a >> 32), b,
                               static_cast<uint32_t>(stream)};
  auto k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c[0], p1 = uint64_t{0xCD9E8D57u} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

// Uniform in [0, 1) with 24 bits.
LEMA_HD inline float uniform(uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }

}  // namespace lema
