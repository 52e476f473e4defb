// Detection and choice of the instruction set; see isa.h.
#include "cpu/isa.h"

#include <atomic>

#include "core/error.h"

namespace lema::cpu {
namespace {

std::atomic<Isa>& chosen() {
  static std::atomic<Isa> isa = widest_isa();
  return isa;
}

}  // namespace

Isa widest_isa() {
  // GCC's test covers the operating system's support for the registers too.
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return Isa::Avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::Avx2;
  return Isa::Baseline;
}

Isa isa() { return chosen().load(std::memory_order_relaxed); }

void use_isa(Isa isa) {
  check(isa <= widest_isa(), "instruction set {} asked of a CPU with {}", static_cast<int>(isa),
        static_cast<int>(widest_isa()));
  chosen().store(isa, std::memory_order_relaxed);
}

}  // namespace lema::cpu
