// Element-wise addition of rows.
#include "cpu/add.h"

#include "cpu/simd.h"
#include "dispatch.h"

namespace lema::cpu {

void add(ThreadPool& pool, MatrixView y, MatrixView a, MatrixView b) {
  with_activation(y.dtype, [&]<typename X>(Type<X>) {
    for_rows(pool, y.rows, y.cols, [&](int64_t r, auto lanes) {
      constexpr int W = lanes.kCount;
      const X *left = row<X>(a, r), *right = row<X>(b, r);
      X* out = row<X>(y, r);
      for_columns<W>(y.cols, [&](int64_t c, auto n) {
        store<W>(out + c, load<W>(left + c, n) + load<W>(right + c, n), n);
      });
    });
  });
}

}  // namespace lema::cpu
