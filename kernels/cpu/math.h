// exp and the logistic function for vectors, without tables or branches. Used by attention, swiglu,
// gelu and the head.
#pragma once

#include "cpu/simd.h"

namespace lema::cpu {

// e^x, relative error <= 2e-7 where the result is a normal number; +inf above 88.73, 0 below -104,
// NaN stays NaN. x = n ln2 + r with |r| <= ln2 / 2; e^r = 1 + r + r^2 q(r), q a minimax polynomial
// (error 3.1e-9); ln2 is split so that n * 355/512 is exact, and 2^n is applied in two factors so
// that results below 2^-126 round correctly.
template <int W>
[[gnu::always_inline]] inline Floats<W> exp(Floats<W> x) {
  using F = Floats<W>;
  using U = typename Lanes<W>::U;
  x = x < -105.0f ? broadcast<W>(-105.0f) : x;
  x = x > 89.0f ? broadcast<W>(89.0f) : x;
  const F magic =
      broadcast<W>(0x1.8p23f);  // adding it rounds to an integer and leaves that in the low bits
  const F shifted = x * 0x1.715476p0f + magic;
  const F n = shifted - magic;
  const F r = (x - n * 0x1.63p-1f) + n * 0x1.bd0106p-13f;
  const F q =
      0.49999994f + r * (0.1666652f + r * (0.041668393f + r * (0.008368781f + r * 0.0013814467f)));
  const F power = 1.0f + (r + r * r * q);
  const Ints<W> exponent =
      reinterpret_cast<Ints<W>>(reinterpret_cast<U>(shifted) - reinterpret_cast<U>(magic));
  const Ints<W> half = exponent >> 1;
  const F low = reinterpret_cast<F>(reinterpret_cast<U>(half + 127) << 23);
  const F high = reinterpret_cast<F>(reinterpret_cast<U>(exponent - half + 127) << 23);
  return power * low * high;
}

// 1 / (1 + e^-x) and its complement, both to full relative precision: no subtraction from 1, no
// overflow.
template <int W>
struct Logistic {
  Floats<W> value, complement;
};

template <int W>
[[gnu::always_inline]] inline Logistic<W> logistic(Floats<W> x) {
  const Floats<W> small = exp<W>(x < 0.0f ? x : -x);  // e^-|x|
  const Floats<W> larger = 1.0f / (1.0f + small), smaller = small * larger;
  return {x < 0.0f ? smaller : larger, x < 0.0f ? larger : smaller};
}

}  // namespace lema::cpu
