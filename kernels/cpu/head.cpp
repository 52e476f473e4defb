// Logits of a row tile against some hundred vocabulary rows, turned into probabilities in place,
// and multiplied by the same rows: the sums over the vocabulary that loss and gradient need, 4 N V
// C flops in all.
#include "cpu/head.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "cpu/convert.h"
#include "cpu/math.h"
#include "cpu/simd.h"
#include "cpu/tile.h"

namespace lema::cpu {
namespace {

constexpr int64_t kHeadRows = 64;            // rows of a tile: tasks enough for short batches
constexpr int64_t kHeadCols = 16 * kSliver;  // vocabulary rows at a time, at most
static_assert(kHeadRows * kHeadCols <= kBlockRows * kTileCols);

struct Rows {
  float *max, *sum, *target_logit;
};
Rows rows_of(const HeadState& state) {
  return {state.max.as<float>(), state.sum.as<float>(), state.target_logit.as<float>()};
}

float largest(const float* x, int64_t n) {
  float out = -std::numeric_limits<float>::infinity();
  vectorised([&](auto lanes) {
    constexpr int W = lanes.kCount;
    Floats<W> best = broadcast<W>(out);
    int64_t c = 0;
    for (; c + W <= n; c += W) {
      const Floats<W> v = load<W>(x + c);
      best = v > best ? v : best;
    }
    for (int i = 0; i < W; ++i) out = std::max(out, best[i]);
    for (; c < n; ++c) out = std::max(out, x[c]);
  });
  return out;
}

// x[i] = exp(x[i] - max); returns their sum.
float exponentials(float* x, int64_t n, float max) {
  float total = 0;
  vectorised([&](auto lanes) {
    constexpr int W = lanes.kCount;
    total = sum_columns<W>(n, [&](int64_t c, auto count) {
      const Floats<W> e = exp<W>(load<W>(x + c, count) - max);
      store<W>(x + c, e, count);
      return e;
    });
  });
  return total;
}

// Logits of row n become exp(logit - running maximum), the target's 0; the row's state follows.
void update_row(const HeadState& state, int64_t n, float* logits, int64_t count, int64_t target) {
  const Rows rows = rows_of(state);
  const float max = std::max(rows.max[n], largest(logits, count));
  if (target >= 0 && target < count) {
    rows.target_logit[n] = logits[target];
    logits[target] = -std::numeric_limits<float>::infinity();
  }
  const float rescale = std::exp(rows.max[n] - max);
  rows.sum[n] = rows.sum[n] * rescale + exponentials(logits, count, max);
  rows.max[n] = max;
  if (!state.acc || rescale == 1) return;
  const int64_t C = state.acc.shape[1];
  scale_tile(state.acc.as<float>() + n * C, C, 1, C, rescale);
}

float target_exponential(const Rows& rows, int64_t n) {
  return std::exp(rows.target_logit[n] - rows.max[n]);
}

// -log of the target's share; log1p where that is near 1, so that a small loss keeps its digits.
float row_loss(const Rows& rows, int64_t n) {
  const float target = target_exponential(rows, n), others = rows.sum[n];
  if (others < target) return std::log1p(others / target);
  return std::log(others + target) + (rows.max[n] - rows.target_logit[n]);
}

// target_rows[n] = a weight row, rounded to X.
void copy_target(const HeadState& state, int64_t n, const TensorView& weight, int64_t v) {
  const int64_t C = state.acc.shape[1];
  const Operand in = operand(weight), out = operand(state.target_rows);
  float part[512];
  for (int64_t c = 0; c < C; c += 512) {
    const int64_t count = std::min<int64_t>(512, C - c);
    widen(part, in.from(v, c).data, in.dtype, count);
    narrow(const_cast<void*>(out.from(n, c).data), out.dtype, part, count);
  }
}

// Vocabulary rows at a time: both panels fit the arena.
int64_t sub_chunk(const Workspace& workspace, int64_t C, int64_t rows) {
  const int64_t fit = workspace.available() / (2 * round_up(C, kLane)) / kSliver * kSliver;
  check(fit > 0, "head: CPU scratch of {} floats holds no panel of width {}", workspace.available(),
        C);
  return std::min({fit, kHeadCols, round_up(rows, kSliver)});
}

}  // namespace

void head_begin(ThreadPool&, const HeadState& state) {
  const int64_t N = state.max.elements();
  const Rows rows = rows_of(state);
  std::fill_n(rows.max, N, -std::numeric_limits<float>::infinity());
  std::fill_n(rows.sum, N, 0.f);
  std::fill_n(rows.target_logit, N, 0.f);
  if (!state.acc) return;
  std::fill_n(state.acc.as<float>(), state.acc.elements(), 0.f);
  std::fill_n(static_cast<std::byte*>(state.target_rows.data), state.target_rows.bytes(),
              std::byte{0});
}

void head_chunk(ThreadPool& pool, Workspace& workspace, const HeadState& state, MatrixView x,
                TensorView weight, int64_t v_begin, TensorView targets) {
  const DType X = x.dtype;
  const int64_t N = x.rows, C = x.cols, V = weight.shape[0], step = sub_chunk(workspace, C, V);
  const auto* target = static_cast<const int32_t*>(targets.data);
  // weight^T: (C, v), for the logits
  const Panel columns = panel_for(workspace.take(panel_floats(C, step)), C, weight.dtype, X);
  float* rows_data = workspace.take(panel_floats(step, C));  // weight: (v, C), for acc
  for (int64_t v0 = 0; v0 < V; v0 += step) {
    const int64_t v = std::min(step, V - v0);
    const Operand w = operand(weight).from(v0, 0);
    const Panel rows_panel = panel_for(rows_data, v, weight.dtype, X);
    const int64_t by_columns = tile_count(v, kSliver),
                  by_rows = state.acc ? tile_count(C, kSliver) : 0;
    run(pool, by_columns + by_rows, [&](int64_t i) {
      const bool transposed = i < by_columns;
      const int64_t begin = (transposed ? i : i - by_columns) * kSliver;
      if (transposed)
        pack_panel(columns.columns_from(begin), w.transposed().from(0, begin),
                   std::min(kSliver, v - begin), X);
      else
        pack_panel(rows_panel.columns_from(begin), w.from(0, begin), std::min(kSliver, C - begin),
                   X);
    });
    run(pool, tile_count(N, kHeadRows), [&](int64_t i) {
      const Workspace::Lease tiles(workspace);
      const int64_t first = i * kHeadRows, rows = std::min(kHeadRows, N - first);
      multiply(tiles->out, kHeadCols, operand(x.row_range(first, first + rows)), columns, rows, v,
               C, Write::Overwrite, X, tiles->product);
      for (int64_t n = first; n < first + rows; ++n) {
        const int64_t t = target[n] - v_begin - v0;
        update_row(state, n, tiles->out + (n - first) * kHeadCols, v, t);
        if (state.acc && t >= 0 && t < v) copy_target(state, n, weight, v0 + t);
      }
      if (state.acc)
        multiply(state.acc.as<float>() + first * C, C, operand(tiles->out, kHeadCols), rows_panel,
                 rows, C, v, Write::Accumulate, X, tiles->product);
    });
  }
  workspace.release_to(0);
}

void head_finish(ThreadPool& pool, TensorView loss, MatrixView dx, const HeadState& state,
                 float grad_scale) {
  const int64_t N = loss.elements();
  const Rows rows = rows_of(state);
  for (int64_t n = 0; n < N; ++n) loss.as<float>()[n] = row_loss(rows, n);
  if (!dx) return;
  const int64_t C = dx.cols;
  const float* acc = state.acc.as<float>();
  run(pool, N, [&](int64_t n) {
    float part[512], targets[512];
    const Operand target = operand(state.target_rows), out = operand(dx);
    const float scale = grad_scale / (rows.sum[n] + target_exponential(rows, n));
    for (int64_t c = 0; c < C; c += 512) {
      const int64_t count = std::min<int64_t>(512, C - c);
      widen(targets, target.from(n, c).data, target.dtype, count);
      for (int64_t i = 0; i < count; ++i)
        part[i] = scale * (acc[n * C + c + i] - rows.sum[n] * targets[i]);
      narrow(const_cast<void*>(out.from(n, c).data), out.dtype, part, count);
    }
  });
}

namespace {

// tiles->out (rows, n) = x W^T for rows [first, first + rows) and vocabulary rows [v, v + n) of the
// chunk.
void logits_tile(const Workspace::Lease& tiles, const MatrixView& x, const TensorView& weight,
                 int64_t first, int64_t rows, int64_t v, int64_t n) {
  const Operand w = operand(weight).transposed();
  for (int64_t k = 0; k < x.cols; k += kPanelRows) {
    const Panel panel =
        panel_for(tiles->panel, std::min(kPanelRows, x.cols - k), w.dtype, x.dtype);
    pack_panel(panel, w.from(k, v), n, x.dtype);
    for (int64_t row = 0; row < rows; row += kTileRows)
      multiply(tiles->out + row * kTileCols, kTileCols, operand(x).from(first + row, k), panel,
               std::min(kTileRows, rows - row), n, panel.K,
               k == 0 ? Write::Overwrite : Write::Accumulate, x.dtype, tiles->product);
  }
}

// d_weight rows [v, v + n) += p^T x, with p (rows, n) in tiles->out.
void add_weight_gradient(const Workspace::Lease& tiles, const TensorView& d_weight,
                         const MatrixView& x, int64_t first, int64_t rows, int64_t v, int64_t n) {
  for (int64_t c = 0; c < x.cols; c += kTileCols) {
    const int64_t columns = std::min(kTileCols, x.cols - c);
    for (int64_t k = 0; k < rows; k += kPanelRows) {
      const Panel panel =
          panel_for(tiles->panel, std::min(kPanelRows, rows - k), x.dtype, x.dtype);
      pack_panel(panel, operand(x).from(first + k, c), columns, x.dtype);
      for (int64_t row = 0; row < n; row += kTileRows)
        multiply(d_weight.as<float>() + (v + row) * x.cols + c, x.cols,
                 operand(tiles->out, kTileCols).from(k, row).transposed(), panel,
                 std::min(kTileRows, n - row), columns, panel.K, Write::Accumulate, x.dtype,
                 tiles->product);
    }
  }
}

}  // namespace

// A task owns some vocabulary rows of the gradient and sums over tiles of x in their order.
void head_weight_backward(ThreadPool& pool, Workspace& workspace, TensorView d_weight,
                          const HeadState& state, MatrixView x, TensorView weight, int64_t v_begin,
                          TensorView targets, float grad_scale) {
  const Rows rows = rows_of(state);
  const auto* target = static_cast<const int32_t*>(targets.data);
  const int64_t V = weight.shape[0];
  run(pool, tile_count(V, kTileCols), [&](int64_t task) {
    const Workspace::Lease tiles(workspace);
    const int64_t v = task * kTileCols, n = std::min(kTileCols, V - v);
    for (int64_t first = 0; first < x.rows; first += kBlockRows) {
      const int64_t count = std::min(kBlockRows, x.rows - first);
      logits_tile(tiles, x, weight, first, count, v, n);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t row = first + i, t = target[row] - v_begin - v;
        float* p = tiles->out + i * kTileCols;
        const float scale = grad_scale / (rows.sum[row] + target_exponential(rows, row));
        exponentials(p, n, rows.max[row]);
        scale_tile(p, kTileCols, 1, n, scale);
        if (t >= 0 && t < n) p[t] = -scale * rows.sum[row];
      }
      add_weight_gradient(tiles, d_weight, x.col_range(x.cols - d_weight.shape[1], x.cols), first,
                          count, v, n);
    }
  });
}

}  // namespace lema::cpu
