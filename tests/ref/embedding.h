// Row lookup, table (V, C), and its counterpart.
#pragma once

#include <cstddef>
#include <vector>

namespace lema::ref {

template <typename T>
std::vector<T> embedding(const std::vector<double>& ids, const std::vector<T>& table, size_t C) {
  std::vector<T> y;
  for (const double id : ids)
    for (size_t c = 0; c < C; ++c) y.push_back(table[static_cast<size_t>(id) * C + c]);
  return y;
}

// y (places, C) with row n of x at place rows[n].
template <typename T>
std::vector<T> scatter_rows(std::vector<T> y, const std::vector<T>& x,
                            const std::vector<double>& rows, size_t C) {
  for (size_t n = 0; n < rows.size(); ++n)
    for (size_t c = 0; c < C; ++c) y[static_cast<size_t>(rows[n]) * C + c] = x[n * C + c];
  return y;
}

}  // namespace lema::ref
