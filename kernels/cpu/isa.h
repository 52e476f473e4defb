// The instruction sets the CPU kernels are compiled for. One binary runs on any x86-64; the widest
// set that this CPU has is chosen at run time. Used by simd.h.
#pragma once

namespace lema::cpu {

enum class Isa { Baseline, Avx2, Avx512 };  // 4, 8 and 16 floats in a vector; Avx2 includes FMA

// The widest set of this CPU and operating system.
Isa widest_isa();
// The set in use: the widest, unless use_isa() lowered it. Results are bit-equal within one set,
// not across sets.
Isa isa();
// For tests and for reproducing another machine's bits. Internal error when this CPU lacks it.
// Threads: not while a kernel runs.
void use_isa(Isa isa);

}  // namespace lema::cpu
