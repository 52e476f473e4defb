// The head over groups of rows and chunks of vocabulary. Called by train_step and by evaluation.
#include "model/head_loss.h"

#include <algorithm>
#include <numeric>

#include "model/carver.h"

namespace lema {

int64_t HeadLoss::carve(const ModelConfig& c, DType X, const HeadLimits& limits, std::byte* base,
                        Regions& r) {
  const int64_t x = element_bytes(X), G = limits.group_rows,
                T = std::min(limits.token_tile, limits.rows), R = limits.rank, W = c.C + R;
  Carver carver(base);
  r.n = carver.take(G * W * x);
  r.max = carver.take(G * 4);
  r.sum = carver.take(G * 4);
  r.target_logit = carver.take(G * 4);
  r.x_rows = carver.take(T * c.C * x);
  if (R > 0) {
    r.chunk = carver.take(limits.chunk_rows * W * x);
    r.row_ids = carver.take(limits.chunk_rows * 4);
  }
  if (!limits.gradient) return carver.used();
  r.acc = carver.take(G * W * 4);
  r.target_rows = carver.take(G * W * x);
  r.d_rows = carver.take(T * c.C * x);
  return carver.used();
}

int64_t HeadLoss::workspace_bytes(const ModelConfig& config, DType X, const HeadLimits& limits) {
  Regions unused;
  return carve(config, X, limits, nullptr, unused);
}

HeadLoss::HeadLoss(Device& device, Ops& ops, Transformer& transformer, const HeadLimits& limits)
    : ops_(ops), transformer_(transformer), limits_(limits) {
  check(limits.group_rows == limits.rows || limits.group_rows % limits.token_tile == 0,
        "head groups of {} rows are no multiple of the tile", limits.group_rows);
  const ModelConfig& config = transformer.config();
  const DType X = transformer.activation_dtype();
  buffer_ = device.allocate(workspace_bytes(config, X, limits), "head workspace");
  carve(config, X, limits, buffer_.data(), r_);
  if (limits.rank == 0) return;
  if (transformer.adapter()->view(-1, Field::Head).magnitude)
    fail(ErrorCode::BadInput,
         "the adapter has DoRA on the head, whose loss is not computed; merge it with lema merge");
  std::vector<int32_t> ids(static_cast<size_t>(limits.chunk_rows));
  std::iota(ids.begin(), ids.end(), 0);
  device.copy_async(Queue::Compute, r_.row_ids, ids.data(), limits.chunk_rows * 4);
  device.synchronize(Queue::Compute);
}

// [W | B] of a chunk, in the activation dtype.
TensorView HeadLoss::widened(const TensorView& weight, const LoraView& lora,
                             int64_t v_begin) const {
  const int64_t rows = weight.shape[0], C = weight.shape[1], width = C + limits_.rank;
  const MatrixView chunk(r_.chunk, transformer_.activation_dtype(), rows, width);
  const TensorView ids(r_.row_ids, DType::I32, {rows});
  ops_.embedding(chunk.col_range(0, C), ids, weight, Write::Overwrite);
  ops_.embedding(chunk.col_range(C, width), ids, lora.b.rows(v_begin, v_begin + rows),
                 Write::Overwrite);
  return {chunk.data, chunk.dtype, {rows, width}};
}

// Selected rows are an embedding lookup in the matrix of activations.
void HeadLoss::gather(MatrixView to, MatrixView x, TensorView rows) const {
  ops_.embedding(to, rows, TensorView(x.data, x.dtype, {x.rows, x.cols}), Write::Overwrite);
}

void HeadLoss::run(TensorView loss, MatrixView dx, MatrixView x, TensorView rows,
                   TensorView targets, TensorView norm_weight, TensorView norm_bias,
                   const VisitChunks& visit_chunks, float grad_scale, TensorView d_weight) {
  const int64_t count = rows.shape[0], C = transformer_.config().C, tile = limits_.token_tile;
  const DType X = transformer_.activation_dtype();
  check(count <= limits_.rows, "{} rows with a target, planned for {}", count, limits_.rows);
  const bool gradient = static_cast<bool>(dx);
  const int64_t R = limits_.rank, width = C + R;
  const LoraView lora = R > 0 ? transformer_.adapter()->view(-1, Field::Head) : LoraView();
  const auto visit_widened = [&](const UseChunk& use) {
    visit_chunks([&](TensorView weight, int64_t v_begin) {
      use(R > 0 ? widened(weight, lora, v_begin) : weight, v_begin);
    });
  };
  if (!d_weight) d_weight = lora.db;
  if (gradient) ops_.fill(TensorView(dx.data, X, {dx.rows, dx.cols}), 0);

  for (int64_t group = 0; group < count; group += limits_.group_rows) {
    const int64_t group_end = std::min(count, group + limits_.group_rows);
    // State and normalised rows of the tile that starts at `begin`; the group's buffers start at
    // its first row.
    const auto part = [&](std::byte* base, DType dtype, int64_t begin, int64_t end, int64_t cols) {
      return MatrixView(base + (begin - group) * cols * element_bytes(dtype), dtype, end - begin,
                        cols);
    };
    const auto state = [&](int64_t begin, int64_t end) {
      const auto vector = [&](std::byte* base) {
        return TensorView(base + (begin - group) * 4, DType::F32, {end - begin});
      };
      HeadState s{vector(r_.max), vector(r_.sum), vector(r_.target_logit), {}, {}};
      if (gradient) {
        s.acc = {part(r_.acc, DType::F32, begin, end, width).data, DType::F32,
                 {end - begin, width}};
        s.target_rows = {part(r_.target_rows, X, begin, end, width).data, X, {end - begin, width}};
      }
      return s;
    };
    const auto for_each_tile = [&](auto visit) {
      for (int64_t begin = group; begin < group_end; begin += tile)
        visit(begin, std::min(group_end, begin + tile));
    };

    for_each_tile([&](int64_t begin, int64_t end) {
      const MatrixView x_rows(r_.x_rows, X, end - begin, C);
      gather(x_rows, x, rows.rows(begin, end));
      const MatrixView n = part(r_.n, X, begin, end, width);
      transformer_.norm(n.col_range(0, C), x_rows, norm_weight, norm_bias);
      if (R > 0) {
        const LoraView half = transformer_.adapter()->head_half(begin);
        const LinearPart to_h = transformer_.adapter()->end_linear(half);
        ops_.linear(n.col_range(C, width), n.col_range(0, C), {&to_h, 1}, Write::Overwrite);
      }
      ops_.head_begin(state(begin, end));
    });
    visit_widened([&](TensorView weight, int64_t v_begin) {
      for_each_tile([&](int64_t begin, int64_t end) {
        ops_.head_chunk(state(begin, end), part(r_.n, X, begin, end, width), weight, v_begin,
                        targets.rows(begin, end));
      });
    });
    if (gradient && d_weight)
      visit_widened([&](TensorView weight, int64_t v_begin) {
        for_each_tile([&](int64_t begin, int64_t end) {
          ops_.head_weight_backward(d_weight.rows(v_begin, v_begin + weight.shape[0]),
                                    state(begin, end), part(r_.n, X, begin, end, width), weight,
                                    v_begin, targets.rows(begin, end), grad_scale);
        });
      });
    for_each_tile([&](int64_t begin, int64_t end) {
      // The gradient of the normalised rows takes their place: the head has read them for the last
      // time.
      const MatrixView dn = gradient ? part(r_.n, X, begin, end, width) : MatrixView();
      ops_.head_finish(loss.rows(begin, end), dn, state(begin, end), grad_scale);
      if (!gradient) return;
      const MatrixView x_rows(r_.x_rows, X, end - begin, C), d_rows(r_.d_rows, X, end - begin, C);
      gather(x_rows, x, rows.rows(begin, end));
      if (R > 0) {
        const LoraView half = transformer_.adapter()->head_half(begin);
        const LinearPart to_h = transformer_.adapter()->end_linear(half);
        transformer_.norm(d_rows, x_rows, norm_weight, norm_bias);
        ops_.linear_backward(dn.col_range(0, C), dn.col_range(C, width), d_rows, {&to_h, 1},
                             Write::Accumulate);
      }
      transformer_.norm_backward(d_rows, dn.col_range(0, C), x_rows, norm_weight,
                                 Write::Overwrite);
      ops_.scatter_rows(dx, d_rows, rows.rows(begin, end));
    });
  }
}

}  // namespace lema
