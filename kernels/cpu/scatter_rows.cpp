// A copy per row.
#include "cpu/scatter_rows.h"

#include <algorithm>
#include <cstring>

namespace lema::cpu {

void scatter_rows(ThreadPool& pool, MatrixView y, MatrixView x, TensorView rows) {
  constexpr int64_t kRowsPerTask = 64;
  const int64_t bytes = x.cols * element_bytes(x.dtype);
  const auto* to = static_cast<const int32_t*>(rows.data);
  pool.parallel_for((x.rows + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task) {
    const int64_t end = std::min(x.rows, (task + 1) * kRowsPerTask);
    for (int64_t n = task * kRowsPerTask; n < end; ++n)
      std::memcpy(y.row_range(to[n], to[n] + 1).data, x.row_range(n, n + 1).data,
                  static_cast<size_t>(bytes));
  });
}

}  // namespace lema::cpu
