// Attention forward: a work item is a tile of 64 query rows of one key-value head, and passes once
// over its keys in tiles of 64 with a running maximum and sum per query (online softmax).
#include "cpu/attention.h"

#include <cmath>
#include <limits>

#include "cpu/attention_tile.h"
#include "cpu/math.h"
#include "dispatch.h"

namespace lema::cpu {
namespace {

struct Call {
  MatrixView o, q, k, v;
  float* lse;
  AttentionShape shape;
};

struct Scratch {
  float *q, *o, *keys, *scores, *max, *sum, *products;
  Scratch(float* data, int64_t D)
      : q(data),
        o(q + tile_floats(D)),
        keys(o + tile_floats(D)),
        scores(keys + tile_floats(D)),
        max(scores + kTile * kTile),
        sum(max + kTile),
        products(sum + kTile) {}
  static int64_t floats(int64_t D) {
    return 3 * tile_floats(D) + kTile * kTile + 2 * kTile + PairProducts::scratch_floats(D);
  }
};

// Scores of keys [j0, j0 + keys) that a lane's query does not see become -inf.
template <int W>
void mask_scores(float* scores, int64_t keys, int64_t j0, const VisibleKeys& visible,
                 int64_t lanes) {
  const Floats<W> hidden = broadcast<W>(-std::numeric_limits<float>::infinity());
  for (int64_t l = 0; l < lanes; l += W)
    for (int64_t j = 0; j < keys; ++j) {
      float* at = scores + j * kTile + l;
      store<W>(at, where_seen<W>(visible, l, j0 + j, load<W>(at), hidden));
    }
}

// Scores become exp(scale score - max); o and sum are brought from the earlier maximum to the one
// with these keys.
template <int W>
void online_softmax(const Scratch& s, float scale, int64_t keys, int64_t D, int64_t lanes) {
  for (int64_t l = 0; l < lanes; l += W) {
    const Floats<W> before = load<W>(s.max + l);
    Floats<W> max = before;
    for (int64_t j = 0; j < keys; ++j) {
      const Floats<W> score = load<W>(s.scores + j * kTile + l) * scale;
      max = score > max ? score : max;
    }
    const Floats<W> shrink = exp<W>(before - max);
    Floats<W> sum = load<W>(s.sum + l) * shrink;
    for (int64_t j = 0; j < keys; ++j) {
      const Floats<W> p = exp<W>(load<W>(s.scores + j * kTile + l) * scale - max);
      store<W>(s.scores + j * kTile + l, p);
      sum += p;
    }
    for (int64_t d = 0; d < D; ++d)
      store<W>(s.o + d * kTile + l, load<W>(s.o + d * kTile + l) * shrink);
    store<W>(s.max + l, max);
    store<W>(s.sum + l, sum);
  }
}

template <typename X>
void store_lse(const Call& call, const Rows<X>& at, const Scratch& s, int64_t r0, int64_t rows) {
  if (!call.lse) return;
  for (int64_t r = 0; r < rows; ++r) call.lse[at.index(r0 + r)] = s.max[r] + std::log(s.sum[r]);
}

// o, and lse where wanted, of rows [r0, r0 + rows), which lie across the lanes.
template <int W, typename Products, typename X>
void forward_tile(const Call& call, const Rows<X>& at, const Scratch& s, int64_t r0, int64_t rows) {
  const int64_t D = at.D, lanes = whole_vectors<W>(rows);
  const VisibleKeys visible(at, r0, rows, lanes);
  Products::lay_lanes(s.q, s.keys, D, rows,
                      [&](int64_t l) { return at.of_query(call.q, r0 + l); });
  std::fill(s.o, s.o + D * kTile, 0.0f);
  std::fill(s.max, s.max + kTile, -std::numeric_limits<float>::infinity());
  std::fill(s.sum, s.sum + kTile, 0.0f);

  for (int64_t j0 = visible.begin; j0 < visible.end; j0 += kTile) {
    const int64_t keys = std::min(kTile, visible.end - j0);
    Products::lay_rows(s.keys, D, keys, [&](int64_t j) { return at.of_key(call.k, j0 + j); });
    Products::score(s.scores, s.keys, s.q, s.products, keys, D, lanes);
    if (visible.differ(j0, j0 + keys, lanes)) mask_scores<W>(s.scores, keys, j0, visible, lanes);
    online_softmax<W>(s, call.shape.scale, keys, D, lanes);
    Products::lay_rows(s.keys, D, keys, [&](int64_t j) { return at.of_key(call.v, j0 + j); });
    Products::add(s.o, s.keys, s.scores, s.products, keys, D, lanes);
  }
  store_transposed<W>(
      s.o, D, rows, [&](int64_t l) { return at.of_query(call.o, r0 + l); },
      [&](int64_t l) { return 1.0f / load<W>(s.sum + l); });
  store_lse(call, at, s, r0, rows);
}

// Lane j is the product of a row of q and row j of W rows of keys; all rows are `pitch` elements.
template <int W>
Floats<W> dot_products(const float* q, const float* keys, int64_t pitch) {
  Floats<W> sums[W] = {};
  for (int64_t d = 0; d < pitch; d += W) {
    const Floats<W> part = load<W>(q + d);
#pragma GCC unroll 16
    for (int j = 0; j < W; ++j) sums[j] += part * load<W>(keys + j * pitch + d);
  }
  return sum_each<W>(sums);
}

// One row's step of the online softmax: its scores with the keys in s.keys, of which it sees
// [first, last], become exp(score - max); its o and sum are brought to the maximum with them.
template <int W>
void online_softmax_of_row(const Scratch& s, int64_t r, int64_t keys, int64_t first, int64_t last,
                           int64_t pitch) {
  float *scores = s.scores + r * kTile, *o = s.o + r * pitch, max = s.max[r];
  Floats<W> largest = broadcast<W>(max), sums{};
  for (int64_t j = 0; j < keys; j += W) {
    const Floats<W> dots = dot_products<W>(s.q + r * pitch, s.keys + j * pitch, pitch);
    const Floats<W> hidden = broadcast<W>(-std::numeric_limits<float>::infinity());
    const Ints<W> key = lane_index<W>() + static_cast<int32_t>(j);
    const Floats<W> score = where_seen<W>(key, Ints<W>{} + static_cast<int32_t>(first),
                                          Ints<W>{} + static_cast<int32_t>(last), dots, hidden);
    store<W>(scores + j, score);
    largest = score > largest ? score : largest;
  }
  for (int l = 0; l < W; ++l) max = std::max(max, largest[l]);
  for (int64_t j = 0; j < keys; j += W) {
    const Floats<W> p = exp<W>(load<W>(scores + j) - max);
    store<W>(scores + j, p);
    sums += p;
  }
  const Floats<W> shrink = exp<W>(broadcast<W>(s.max[r] - max));
  for (int64_t d = 0; d < pitch; d += W) store<W>(o + d, load<W>(o + d) * shrink);
  s.sum[r] = s.sum[r] * shrink[0] + sum<W>(sums);
  s.max[r] = max;
}

// Asks for n elements to come into the cache.
template <typename X>
void prefetch(const X* p, int64_t n) {
  for (int64_t i = 0; i < n; i += 64 / static_cast<int64_t>(sizeof(X))) __builtin_prefetch(p + i);
}

// As forward_tile for few rows, as when one token is decoded: lanes are keys, then elements of v,
// so that little is computed for each key and memory sets the speed; a tile ahead, the keys are
// fetched while these are worked on.
template <int W, typename X>
void forward_few_rows(const Call& call, const Rows<X>& at, const Scratch& s, int64_t r0,
                      int64_t rows) {
  const int64_t D = at.D, pitch = whole_vectors<W>(D);
  const int64_t padded_rows = (rows + 3) / 4 * 4;  // multiply() takes four at a time
  load_rows<W>(s.q, D, rows, call.shape.scale,
               [&](int64_t r) { return at.of_query(call.q, r0 + r); });
  std::fill(s.o, s.o + padded_rows * pitch, 0.0f);
  std::fill(s.scores, s.scores + padded_rows * kTile, 0.0f);
  std::fill(s.max, s.max + rows, -std::numeric_limits<float>::infinity());
  std::fill(s.sum, s.sum + rows, 0.0f);

  const int64_t visible = at.last_key(r0 + rows - 1) + 1;
  // From the first key of the first row on: a tile of kTile keys there has one of each row.
  for (int64_t j0 = at.first_key(r0); j0 < visible; j0 += kTile) {
    const int64_t keys = std::min(kTile, visible - j0);
    const auto key_row = [&](const MatrixView& m, int64_t j) {
      prefetch(at.of_key(m, std::min(j0 + j + kTile, visible - 1)), D);
      return at.of_key(m, j0 + j);
    };
    load_rows<W>(s.keys, D, keys, 1.0f, [&](int64_t j) { return key_row(call.k, j); });
    for (int64_t r = 0; r < rows; ++r)
      online_softmax_of_row<W>(s, r, keys, at.first_key(r0 + r) - j0,
                               std::min(at.last_key(r0 + r) - j0, keys - 1), pitch);
    load_rows<W>(s.keys, D, keys, 1.0f, [&](int64_t j) { return key_row(call.v, j); });
    multiply(s.o, {s.scores, kTile, 1}, s.keys, padded_rows, keys, pitch, pitch, Write::Accumulate);
  }
  for (int64_t r = 0; r < rows; ++r)
    for_columns<W>(D, [&](int64_t d, auto n) {
      store<W>(at.of_query(call.o, r0 + r) + d, load<W>(s.o + r * pitch + d) / s.sum[r], n);
    });
  store_lse(call, at, s, r0, rows);
}

// From about 12 rows on the other way costs less.
constexpr int64_t kFewRows = 8;

}  // namespace

void attention(ThreadPool& pool, MatrixView o, TensorView lse, MatrixView q, MatrixView k,
               MatrixView v, TensorView sequences, const AttentionShape& shape,
               std::span<float> scratch) {
  const Call call{o, q, k, v, lse ? lse.as<float>() : nullptr, shape};
  const auto length = [&](const Sequence& sequence) {
    return sequence.q_len * (shape.H / shape.Hkv);
  };
  const WorkList work(sequences, shape.Hkv, length);
  with_activation(q.dtype, [&]<typename X>(Type<X>) {
    for_items(pool, work.count(), scratch, Scratch::floats(shape.D), [&](int64_t i, float* mine) {
      const WorkItem item = work.item(i, length);
      const int64_t r0 = item.tile * kTile, rows = std::min(kTile, length(item.sequence) - r0);
      const Rows<X> at(item, shape);
      const Scratch s(mine, shape.D);
      with_products<X>([&](auto vector, auto products) {
        if (rows <= kFewRows) {
          forward_few_rows<vector.kCount>(call, at, s, r0, rows);
        } else {
          forward_tile<vector.kCount, decltype(products)>(call, at, s, r0, rows);
        }
      });
    });
  });
}

}  // namespace lema::cpu
