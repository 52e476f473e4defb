// Products with a right operand in bf16, by units made for it: sums are f32. Behind pack_panel and
// multiply of gemm.h on CPUs with AMX or AVX512-BF16; elsewhere bf16 is widened and multiplied as
// f32.
#pragma once

#include "cpu/gemm.h"

namespace lema::cpu {

// Ascending in speed. Results are bit-equal within one, not across: Widened adds one product at a
// time, the others add pairs first and flush subnormals.
enum class Bf16Products { Widened, Avx512, Amx };
// The fastest that CPU and operating system grant; asking makes Linux grant AMX to this process.
Bf16Products widest_bf16_products();
// The one in use: the fastest, unless use_bf16_products() or use_isa() lowered it.
Bf16Products bf16_products();
// For tests. Internal error when this CPU lacks it. Threads: not while a kernel runs.
void use_bf16_products(Bf16Products products);

// Whether a right operand of type b is packed as pairs for products in X. In F32 that is so where
// it is BF16 and AMX is there: the left operand is split into three bf16 parts, whose products with
// a bf16 number are exact, as f32's are not, at a third of bf16's speed, several times that of f32.
bool packs_pairs(DType b, DType X);

// Whether products in X take an Addend.
inline bool adds_in_registers(DType X) {
  return X == DType::BF16 && bf16_products() == Bf16Products::Amx;
}

// Panels as [pairs of rows][columns][2], zero up to a multiple of kInnerStep rows. Arguments as in
// gemm.h; where A is one of K columns, all M rows of it rounded to bf16 fit `scratch`.
inline constexpr int64_t kInnerStep = 32;
void pack_pairs(const Panel& panel, const Operand& b, int64_t N);
void multiply_pairs(float* c, int64_t ldc, const Operand& a, const Panel& panel, int64_t M,
                    int64_t N, int64_t K, Write write, DType X, float* scratch,
                    const Addend* plus = nullptr);

}  // namespace lema::cpu
