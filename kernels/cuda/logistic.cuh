// The logistic function and its complement, each without cancellation. Used by swiglu and gelu.
#pragma once

namespace lema::cuda {

struct Logistic {
  float value, complement;  // s and 1 - s
};

__device__ inline Logistic logistic(float x) {
  const float e = expf(-fabsf(x));
  const float small = e / (1.0f + e), large = 1.0f / (1.0f + e);
  return x >= 0 ? Logistic{large, small} : Logistic{small, large};
}

}  // namespace lema::cuda
