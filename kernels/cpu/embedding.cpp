// Row lookup with conversion from the table's dtype to the activations'.
#include "cpu/embedding.h"

#include "cpu/simd.h"
#include "dispatch.h"

namespace lema::cpu {

void embedding(ThreadPool& pool, MatrixView y, TensorView ids, TensorView table, Write write) {
  const auto* id = static_cast<const int32_t*>(ids.data);
  with_activation(y.dtype, [&]<typename X>(Type<X>) {
    with_weight(table.dtype, [&]<typename G>(Type<G>) {
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

}  // namespace lema::cpu
