// Element-wise addition of rows.
#include "cpu/add.h"

#include "cpu/dispatch.h"
#include "cpu/simd.h"

namespace lema::cpu {

void add(ThreadPool& pool, MatrixView y, MatrixView a, MatrixView b) {
  with_activation(y.dtype, [&]<typename X>(Type<X>) {
    for_rows(pool, y.rows, y.cols, [&](int64_t r, auto lanes) {
      constexpr int W = lanes.kCount;
      for_columns<W>(y.cols, [&](int64_t c, auto n) {
        store<W>(row<X>(y, r) + c, load<W>(row<X>(a, r) + c, n) + load<W>(row<X>(b, r) + c, n), n);
      });
    });
  });
}

}  // namespace lema::cpu
