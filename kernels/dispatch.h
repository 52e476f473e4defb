// From a run-time dtype to a type: each kernel calls one of these once and is typed inside.
#pragma once

#include <type_traits>
#include <utility>

#include "core/dtype.h"
#include "core/error.h"

namespace lema {

// The argument of the lambdas: [&]<typename T>(Type<T>) { ... }.
template <typename T>
using Type = std::type_identity<T>;

// Activations of the CPU: fn(Type<float or bf16>); Internal error otherwise.
template <typename Fn>
void with_activation(DType dtype, Fn&& fn) {
  switch (dtype) {
    case DType::F32:
      return fn(Type<float>{});
    case DType::BF16:
      return fn(Type<bf16>{});
    default:
      fail(ErrorCode::Internal, "no kernel for activations of {}; F32 and BF16 exist", name(dtype));
  }
}

// Weights, and activations on a GPU: fn(Type<float, bf16 or f16>); Internal error otherwise.
template <typename Fn>
void with_storage(DType dtype, Fn&& fn) {
  switch (dtype) {
    case DType::F32:
      return fn(Type<float>{});
    case DType::BF16:
      return fn(Type<bf16>{});
    case DType::F16:
      return fn(Type<f16>{});
    default:
      fail(ErrorCode::Internal, "no kernel for {}; F32, BF16 and F16 exist", name(dtype));
  }
}

}  // namespace lema
