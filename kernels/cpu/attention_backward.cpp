// Attention backward. The scores are computed again from q, k and lse, so nothing of size T x T is
// kept. With P = exp(score - lse), dP = do v^T, delta = sum(do o) and dS = P (dP - delta):
//   dq = scale dS k,   dk = scale dS^T q,   dv = P^T do.
// dq is a pass over query tiles, dk and dv one over key tiles: seven products instead of five, for
// one writer per element, a fixed order and as many work items as there are tiles. Ref:
// arXiv:2307.08691 section 3.1.
#include "cpu/attention.h"
#include "cpu/attention_tile.h"
#include "cpu/math.h"
#include "dispatch.h"

namespace lema::cpu {
namespace {

struct Call {
  MatrixView dq, dk, dv, d_o, o, q, k, v;
  const float* lse;
  float* delta;  // (Nq, H)
  AttentionShape shape;
};

// Four tiles that live as long as the work item or a step, two that are accumulated, and two of
// scores.
struct Scratch {
  float *a, *b, *c, *d, *sum1, *sum2, *p, *ds, *products;
  Scratch(float* data, int64_t D)
      : a(data),
        b(a + tile_floats(D)),
        c(b + tile_floats(D)),
        d(c + tile_floats(D)),
        sum1(d + tile_floats(D)),
        sum2(sum1 + tile_floats(D)),
        p(sum2 + tile_floats(D)),
        ds(p + kTile * kTile),
        products(ds + kTile * kTile) {}
  static int64_t floats(int64_t D) {
    return 6 * tile_floats(D) + 2 * kTile * kTile + PairProducts::scratch_floats(D);
  }
};

// Lanes are query rows: p and ds (keys, lanes) from scores in p and dP in ds.
template <int W>
void softmax_gradient_by_query(const Scratch& s, float scale, int64_t keys, int64_t j0,
                               int64_t lanes, const float* lse, const float* delta,
                               const VisibleKeys& visible) {
  for (int64_t l = 0; l < lanes; l += W) {
    const Floats<W> row_lse = load<W>(lse + l), row_delta = load<W>(delta + l);
    for (int64_t j = 0; j < keys; ++j) {
      float *p = s.p + j * kTile + l, *ds = s.ds + j * kTile + l;
      const Floats<W> seen = exp<W>(load<W>(p) * scale - row_lse);
      const Floats<W> weight = where_seen<W>(visible, l, j0 + j, seen, Floats<W>{});
      store<W>(ds, weight * (load<W>(ds) - row_delta));
    }
  }
}

template <int W, typename X, typename Products>
void dq_tile(const Call& call, const WorkItem& item, float* scratch) {
  const int64_t D = call.shape.D;
  const Rows<X> at(item, call.shape);
  const int64_t r0 = item.tile * kTile, rows = std::min(kTile, item.sequence.q_len * at.G - r0);
  const int64_t lanes = whole_vectors<W>(rows);
  const Scratch s(scratch, D);
  float lse[kTile], delta[kTile];
  const VisibleKeys visible(at, r0, rows, lanes);
  for (int64_t l = 0; l < lanes; ++l) {
    const int64_t r = r0 + std::min(l, rows - 1);
    lse[l] = call.lse[at.index(r)];
    delta[l] = call.delta[at.index(r)];
  }
  Products::lay_lanes(s.a, s.c, D, rows, [&](int64_t l) { return at.of_query(call.q, r0 + l); });
  Products::lay_lanes(s.b, s.c, D, rows, [&](int64_t l) { return at.of_query(call.d_o, r0 + l); });
  std::fill(s.sum1, s.sum1 + D * kTile, 0.0f);

  for (int64_t j0 = visible.begin; j0 < visible.end; j0 += kTile) {
    const int64_t keys = std::min(kTile, visible.end - j0);
    Products::lay_rows(s.c, D, keys, [&](int64_t j) { return at.of_key(call.k, j0 + j); });
    Products::lay_rows(s.d, D, keys, [&](int64_t j) { return at.of_key(call.v, j0 + j); });
    Products::score(s.p, s.c, s.a, s.products, keys, D, lanes);
    Products::score(s.ds, s.d, s.b, s.products, keys, D, lanes);
    softmax_gradient_by_query<W>(s, call.shape.scale, keys, j0, lanes, lse, delta, visible);
    Products::add(s.sum1, s.c, s.ds, s.products, keys, D, lanes);
  }
  store_transposed<W>(
      s.sum1, D, rows, [&](int64_t l) { return at.of_query(call.dq, r0 + l); },
      [&](int64_t) { return broadcast<W>(call.shape.scale); });
}

// Lanes are keys j0 + l: p and ds (rows, lanes) from scores in p and dP in ds.
template <int W, typename X>
void softmax_gradient_by_key(const Call& call, const Rows<X>& at, const Scratch& s, int64_t r0,
                             int64_t rows, int64_t j0, int64_t lanes) {
  for (int64_t i = 0; i < rows; ++i) {
    const float lse = call.lse[at.index(r0 + i)], delta = call.delta[at.index(r0 + i)];
    const Ints<W> first = Ints<W>{} + static_cast<int32_t>(at.first_key(r0 + i) - j0),
                  last = Ints<W>{} + static_cast<int32_t>(at.last_key(r0 + i) - j0);
    for (int64_t l = 0; l < lanes; l += W) {
      float *p = s.p + i * kTile + l, *ds = s.ds + i * kTile + l;
      const Ints<W> lane = lane_index<W>() + static_cast<int32_t>(l);
      const Floats<W> seen = exp<W>(load<W>(p) * call.shape.scale - lse);
      const Floats<W> weight = where_seen<W>(lane, first, last, seen, Floats<W>{});
      store<W>(p, weight);
      store<W>(ds, weight * (load<W>(ds) - delta));
    }
  }
}

template <int W, typename X, typename Products>
void dk_dv_tile(const Call& call, const WorkItem& item, float* scratch) {
  const int64_t D = call.shape.D;
  const Rows<X> at(item, call.shape);
  const int64_t j0 = item.tile * kTile, keys = std::min(kTile, item.sequence.kv_len - j0);
  const int64_t lanes = whole_vectors<W>(keys);
  const int64_t all_rows = item.sequence.q_len * at.G;
  // Query j is the first to see key j, query j + window - 1 the last.
  const int64_t end_row =
      at.window == 0 ? all_rows : std::min(all_rows, (j0 + keys - 1 + at.window) * at.G);
  const Scratch s(scratch, D);
  Products::lay_lanes(s.a, s.c, D, keys, [&](int64_t l) { return at.of_key(call.k, j0 + l); });
  Products::lay_lanes(s.b, s.c, D, keys, [&](int64_t l) { return at.of_key(call.v, j0 + l); });
  std::fill(s.sum1, s.sum1 + D * kTile, 0.0f);
  std::fill(s.sum2, s.sum2 + D * kTile, 0.0f);

  for (int64_t r0 = j0 * at.G; r0 < end_row; r0 += kTile) {
    const int64_t rows = std::min(kTile, end_row - r0);
    Products::lay_rows(s.c, D, rows, [&](int64_t i) { return at.of_query(call.q, r0 + i); });
    Products::lay_rows(s.d, D, rows, [&](int64_t i) { return at.of_query(call.d_o, r0 + i); });
    Products::score(s.p, s.c, s.a, s.products, rows, D, lanes);
    Products::score(s.ds, s.d, s.b, s.products, rows, D, lanes);
    softmax_gradient_by_key<W>(call, at, s, r0, rows, j0, lanes);
    Products::add(s.sum1, s.c, s.ds, s.products, rows, D, lanes);
    Products::add(s.sum2, s.d, s.p, s.products, rows, D, lanes);
  }
  store_transposed<W>(
      s.sum1, D, keys, [&](int64_t l) { return at.of_key(call.dk, j0 + l); },
      [&](int64_t) { return broadcast<W>(call.shape.scale); });
  store_transposed<W>(
      s.sum2, D, keys, [&](int64_t l) { return at.of_key(call.dv, j0 + l); },
      [](int64_t) { return broadcast<W>(1.0f); });
}

}  // namespace

int64_t attention_scratch_floats(const OpsLimits& limits, int threads) {
  // Backward holds more tiles than forward, and a delta per row and head.
  return limits.tokens * limits.heads + threads * Scratch::floats(limits.head_size);
}

void attention_backward(ThreadPool& pool, MatrixView dq, MatrixView dk, MatrixView dv,
                        MatrixView d_o, MatrixView o, TensorView lse, MatrixView q, MatrixView k,
                        MatrixView v, TensorView sequences, const AttentionShape& shape,
                        std::span<float> scratch) {
  const int64_t H = shape.H, Hkv = shape.Hkv, D = shape.D;
  const int64_t tiles = pool.threads() * Scratch::floats(D);
  check(static_cast<int64_t>(scratch.size()) >= tiles + q.rows * H,
        "attention scratch of {} floats, {} needed", scratch.size(), tiles + q.rows * H);
  const Call call{dq, dk, dv, d_o, o, q, k, v, lse.as<float>(), scratch.data() + tiles, shape};
  with_activation(q.dtype, [&]<typename X>(Type<X>) {
    for_rows(pool, q.rows, H * D, [&](int64_t n, auto vector) {
      constexpr int W = vector.kCount;
      for (int64_t h = 0; h < H; ++h) {
        const X *grad = row<X>(d_o, n) + h * D, *out = row<X>(o, n) + h * D;
        call.delta[n * H + h] = sum_columns<W>(
            D, [&](int64_t d, auto c) { return load<W>(grad + d, c) * load<W>(out + d, c); });
      }
    });
    const auto rows = [&](const Sequence& sequence) { return sequence.q_len * (H / Hkv); };
    const auto keys = [&](const Sequence& sequence) { return sequence.kv_len; };
    const WorkList by_query(sequences, Hkv, rows), by_key(sequences, Hkv, keys);
    for_items(pool, by_query.count(), scratch, Scratch::floats(D), [&](int64_t i, float* mine) {
      with_products<X>([&](auto vector, auto products) {
        dq_tile<vector.kCount, X, decltype(products)>(call, by_query.item(i, rows), mine);
      });
    });
    for_items(pool, by_key.count(), scratch, Scratch::floats(D), [&](int64_t i, float* mine) {
      with_products<X>([&](auto vector, auto products) {
        dk_dv_tile<vector.kCount, X, decltype(products)>(call, by_key.item(i, keys), mine);
      });
    });
  });
}

}  // namespace lema::cpu
