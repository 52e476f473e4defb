// Row lookup with conversion from the table's dtype to the activations'; sums of rows the other
// way.
#include "cpu/embedding.h"

#include "cpu/convert.h"
#include "cpu/simd.h"
#include "cpu/tile.h"
#include "dispatch.h"

namespace lema::cpu {

void embedding(ThreadPool& pool, MatrixView y, TensorView ids, TensorView table, Write write) {
  const auto* id = static_cast<const int32_t*>(ids.data);
  with_activation(y.dtype, [&]<typename X>(Type<X>) {
    with_storage(table.dtype, [&]<typename G>(Type<G>) {
      const G* entries = table.as<G>();
      for_rows(pool, y.rows, y.cols, [&](int64_t r, auto lanes) {
        constexpr int W = lanes.kCount;
        const G* entry = entries + int64_t{id[r]} * y.cols;
        X* out = row<X>(y, r);
        for_columns<W>(
            y.cols, [&](int64_t c, auto n) { store<W>(out + c, load<W>(entry + c, n), n, write); });
      });
    });
  });
}

// A task owns some columns of the table, and adds rows in their order.
void embedding_backward(ThreadPool& pool, TensorView d_table, TensorView ids, MatrixView dy) {
  constexpr int64_t kColumns = 64;
  const auto* id = static_cast<const int32_t*>(ids.data);
  run(pool, tile_count(dy.cols, kColumns), [&](int64_t task) {
    const int64_t begin = task * kColumns, n = std::min(kColumns, dy.cols - begin);
    float part[kColumns];
    for (int64_t row = 0; row < dy.rows; ++row) {
      widen(part, dy.row_range(row, row + 1).col_range(begin, begin + n).data, dy.dtype, n);
      add_row(d_table.as<float>() + int64_t{id[row]} * dy.cols + begin, part, n);
    }
  });
}

}  // namespace lema::cpu
