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

// d_table (V, C) + dy (N, C) summed by ids.
template <typename T>
std::vector<T> embedding_backward(std::vector<T> d_table, const std::vector<double>& ids,
                                  const std::vector<T>& dy, size_t C) {
  for (size_t n = 0; n < ids.size(); ++n)
    for (size_t c = 0; c < C; ++c) d_table[static_cast<size_t>(ids[n]) * C + c] += dy[n * C + c];
  return d_table;
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
