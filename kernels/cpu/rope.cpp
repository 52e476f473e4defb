// Rotary position embedding in place: per row one table row serves all heads.
#include "cpu/rope.h"

#include "cpu/simd.h"
#include "dispatch.h"

namespace lema::cpu {
namespace {

// Pairs (head[i], head[i + half]) turn by the angle whose cosine and sine are given; `sign` -1
// turns back.
template <int W, typename X>
void rotate(X* head, const float* cosine, const float* sine, int64_t half, float sign) {
  for_columns<W>(half, [&](int64_t i, auto n) {
    const Floats<W> a = load<W>(head + i, n), b = load<W>(head + half + i, n);
    const Floats<W> cos = load<W>(cosine + i, n), sin = sign * load<W>(sine + i, n);
    store<W>(head + i, a * cos - b * sin, n);
    store<W>(head + half + i, b * cos + a * sin, n);
  });
}

}  // namespace

void rope(ThreadPool& pool, MatrixView x, TensorView positions, TensorView table, int64_t head_size,
          bool inverse) {
  const auto* position = static_cast<const int32_t*>(positions.data);
  const float* angle_table = table.as<float>();
  const int64_t P = table.shape[1];
  with_activation(x.dtype, [&]<typename X>(Type<X>) {
    for_rows(pool, x.rows, x.cols, [&](int64_t n, auto lanes) {
      const float* angles = angle_table + position[n] * P;
      for (int64_t c = 0; c < x.cols; c += head_size)
        rotate<lanes.kCount>(row<X>(x, n) + c, angles, angles + P / 2, P / 2,
                             inverse ? -1.0f : 1.0f);
    });
  });
}

}  // namespace lema::cpu
