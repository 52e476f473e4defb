// Numeric comparison for every test: bounds derived from the unit roundoff, a failure that names
// the worst element, and NaN never passes. The tolerances of the whole suite come from here, each
// with its reason.
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/error.h"
#include "support/catch.h"

namespace lema::test {

using Values = std::vector<double>;

// u of a storage type: one rounding changes x by at most u |x|.
inline double unit_roundoff(DType dtype) {
  check(dtype == DType::F32 || dtype == DType::BF16 || dtype == DType::F16, "no roundoff of {}",
        name(dtype));
  return dtype == DType::F32 ? 0x1p-24 : dtype == DType::BF16 ? 0x1p-8 : 0x1p-11;
}

// What one rounding to `dtype` changes x by at most. f16's subnormals, which gradients reach, lie
// 2^-24 apart.
inline double rounding_bound(DType dtype, double x) {
  return unit_roundoff(dtype) * std::abs(x) + (dtype == DType::F16 ? 0x1p-25 : 0);
}

// Results below the smallest normal f32 count as zero: their relative error is not bounded by u.
inline constexpr double kTiny = 0x1p-126;

// Element-wise arithmetic: up to four roundings of the result, 4 u |ref|.
inline Values elementwise_bound(const Values& ref, DType dtype) {
  Values bound(ref.size());
  for (size_t i = 0; i < ref.size(); ++i)
    bound[i] = 4 * rounding_bound(dtype, ref[i]) + kTiny;
  return bound;
}

// A sum of n terms in f32: 4 u sqrt(n) sum |terms|. Roundings are independent, so they grow as the
// root of n.
inline double reduction_bound(int64_t n, double sum_of_magnitudes) {
  return 4 * unit_roundoff(DType::F32) * std::sqrt(static_cast<double>(n)) * sum_of_magnitudes +
         kTiny;
}

inline Values operator+(Values a, const Values& b) {
  check(a.size() == b.size(), "bounds of {} and {} values", a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

struct Comparison {
  bool ok = true;
  std::string text;  // the worst element when not ok
};

// |found - expected| <= bound for each element; a NaN on any side fails, equal infinities pass.
inline Comparison compare(const Values& found, const Values& expected, const Values& bound) {
  if (found.size() != expected.size() || found.size() != bound.size())
    return {false, fmt::format("{} values found, {} expected, {} bounds", found.size(),
                               expected.size(), bound.size())};
  size_t worst = 0, failures = 0;
  double worst_ratio = -1;
  for (size_t i = 0; i < found.size(); ++i) {
    const double error = found[i] == expected[i] ? 0 : std::abs(found[i] - expected[i]);
    if (error <= bound[i]) continue;
    ++failures;
    const double ratio = std::isnan(error) || bound[i] == 0 ? INFINITY : error / bound[i];
    if (ratio > worst_ratio) worst_ratio = ratio, worst = i;
  }
  if (failures == 0) return {};
  return {false, fmt::format("{} of {} outside; worst [{}]: found {:.9g}, expected {:.9g}, off by "
                             "{:.3g}, bound {:.3g}",
                             failures, found.size(), worst, found[worst], expected[worst],
                             std::abs(found[worst] - expected[worst]), bound[worst])};
}

// Normalised mean square error, sum (found - expected)^2 / sum expected^2; 0 when both are all
// zero.
inline double nmse(const Values& found, const Values& expected) {
  double error = 0, energy = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    error += (found[i] - expected[i]) * (found[i] - expected[i]);
    energy += expected[i] * expected[i];
  }
  return error == 0 && energy == 0 ? 0 : error / energy;
}

// Cosine of the angle between the two; 1 when both are all zero.
inline double cosine(const Values& found, const Values& expected) {
  double dot = 0, a = 0, b = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    dot += found[i] * expected[i];
    a += found[i] * found[i];
    b += expected[i] * expected[i];
  }
  return a == 0 && b == 0 ? 1 : dot / std::sqrt(a * b);
}

// Per tensor: NMSE 1e-10 (f32) or 1e-4 (16-bit storage). Written so that NaN fails.
inline Comparison compare_nmse(const Values& found, const Values& expected, DType dtype) {
  if (found.size() != expected.size())
    return {false, fmt::format("{} values found, {} expected", found.size(), expected.size())};
  const double limit = dtype == DType::F32 ? 1e-10 : 1e-4, error = nmse(found, expected);
  if (error <= limit) return {};
  return {false,
          fmt::format("NMSE {:.3g}, limit {:.3g}, over {} values", error, limit, found.size())};
}

// Gradients also by direction: cosine 0.9999 (f32) or 0.999 (16-bit storage).
inline Comparison compare_gradient(const Values& found, const Values& expected, DType dtype) {
  const Comparison magnitude = compare_nmse(found, expected, dtype);
  if (!magnitude.ok) return magnitude;
  const double limit = dtype == DType::F32 ? 0.9999 : 0.999, angle = cosine(found, expected);
  if (angle >= limit) return {};
  return {false,
          fmt::format("cosine {:.6g}, limit {}, over {} values", angle, limit, found.size())};
}

inline void expect(const std::string& what, const Comparison& comparison) {
  INFO(what << ": " << comparison.text);
  CHECK(comparison.ok);
}

inline void expect_close(const std::string& what, const Values& found, const Values& expected,
                         const Values& bound) {
  expect(what, compare(found, expected, bound));
}

inline void expect_close(const std::string& what, const Values& found, const Values& expected,
                         double bound) {
  expect(what, compare(found, expected, Values(expected.size(), bound)));
}

inline void expect_gradient(const std::string& what, const Values& found, const Values& expected,
                            DType dtype) {
  expect(what, compare_gradient(found, expected, dtype));
}

}  // namespace lema::test
