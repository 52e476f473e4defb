// Size arithmetic on numbers from files: every product and sum of untrusted sizes goes through
// these two.
#pragma once

#include <cstdint>
#include <optional>

namespace lema {

// nullopt when the result does not fit or an operand is absent, so that calls chain.
inline std::optional<int64_t> checked_multiply(std::optional<int64_t> a, std::optional<int64_t> b) {
  int64_t result = 0;
  if (!a || !b || __builtin_mul_overflow(*a, *b, &result)) return std::nullopt;
  return result;
}

inline std::optional<int64_t> checked_add(std::optional<int64_t> a, std::optional<int64_t> b) {
  int64_t result = 0;
  if (!a || !b || __builtin_add_overflow(*a, *b, &result)) return std::nullopt;
  return result;
}

}  // namespace lema
