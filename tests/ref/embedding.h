// Row lookup; table (V, C).
#pragma once

#include <vector>

namespace lema::ref {

template <typename T>
std::vector<T> embedding(const std::vector<double>& ids, const std::vector<T>& table, size_t C) {
  std::vector<T> y;
  for (const double id : ids)
    for (size_t c = 0; c < C; ++c) y.push_back(table[static_cast<size_t>(id) * C + c]);
  return y;
}

}  // namespace lema::ref
