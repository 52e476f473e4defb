// Conversions through the vector loads and stores of simd.h. Called by gemm, linear, head and fill.
#include "cpu/convert.h"

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
