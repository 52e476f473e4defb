// Attention forward: a work item is a tile of 64 query rows of one key-value head, and passes once over its keys in
// tiles of 64 with a running maximum and sum per query (online softmax).
#include "cpu/attention.h"

#include <cmath>
#include <limits>

#include "cpu/attention_tile.h"
#include "cpu/dispatch.h"
#include "cpu/math.h"

namespace lema::cpu {
namespace {

struct Call {
  MatrixView o, q, k, v;
  float* lse;
  AttentionShape shape;
  int64_t G;  // query heads of a key-value head
};

struct Scratch {
  float *q, *o, *keys, *scores, *max, *sum;
  Scratch(float* data, int64_t D)
      : q(data), o(q + D * kTile), keys(o + D * kTile), scores(keys + D * kTile), max(scores + kTile * kTile),
        sum(max + kTile) {}
  static int64_t floats(int64_t D) { return 3 * D * kTile + kTile * kTile + 2 * kTile; }
};

// Scores of keys past the last one that a lane's query sees become -inf.
template <int W>
void mask_scores(float* scores, int64_t keys, int64_t first_key, const int32_t* last_key, int64_t lanes) {
  for (int64_t l = 0; l < lanes; l += W) {
    Ints<W> last;
    std::memcpy(&last, last_key + l, sizeof last);
    for (int64_t j = 0; j < keys; ++j) {
      float* at = scores + j * kTile + l;
      const Floats<W> hidden = broadcast<W>(-std::numeric_limits<float>::infinity());
      store<W>(at, last < static_cast<int32_t>(first_key + j) ? hidden : load<W>(at));
    }
  }
}

// Scores become exp(score - max); o and sum are brought from the earlier maximum to the one with these keys.
template <int W>
void online_softmax(const Scratch& s, int64_t keys, int64_t D, int64_t lanes) {
  for (int64_t l = 0; l < lanes; l += W) {
    const Floats<W> before = load<W>(s.max + l);
    Floats<W> max = before;
    for (int64_t j = 0; j < keys; ++j) {
      const Floats<W> score = load<W>(s.scores + j * kTile + l);
      max = score > max ? score : max;
    }
    const Floats<W> shrink = exp<W>(before - max);
    Floats<W> sum = load<W>(s.sum + l) * shrink;
    for (int64_t j = 0; j < keys; ++j) {
      const Floats<W> p = exp<W>(load<W>(s.scores + j * kTile + l) - max);
      store<W>(s.scores + j * kTile + l, p);
      sum += p;
    }
    for (int64_t d = 0; d < D; ++d) store<W>(s.o + d * kTile + l, load<W>(s.o + d * kTile + l) * shrink);
    store<W>(s.max + l, max);
    store<W>(s.sum + l, sum);
  }
}

template <int W, typename X>
void forward_tile(const Call& call, const WorkItem& item, float* scratch) {
  const auto [H, Hkv, D, scale] = call.shape;
  const Sequence& sequence = item.sequence;
  const int64_t r0 = item.tile * kTile, rows = std::min(kTile, sequence.q_len * call.G - r0);
  const int64_t lanes = whole_vectors<W>(rows);
  const auto element = [&](const MatrixView& m, int64_t l) {
    const int64_t r = r0 + l;
    return row<X>(m, sequence.q_begin + r / call.G) + (item.kv_head * call.G + r % call.G) * D;
  };
  const auto key = [&](const MatrixView& m, int64_t j) { return row<X>(m, sequence.kv_begin + j) + item.kv_head * D; };

  const Scratch s(scratch, D);
  int32_t last_key[kTile];  // lanes past the rows see what the last row sees
  for (int64_t l = 0; l < lanes; ++l)
    last_key[l] = static_cast<int32_t>(sequence.last_key((r0 + std::min(l, rows - 1)) / call.G));
  load_transposed<W>(s.q, D, rows, scale, [&](int64_t l) { return element(call.q, l); });
  std::fill(s.o, s.o + D * kTile, 0.0f);
  std::fill(s.max, s.max + kTile, -std::numeric_limits<float>::infinity());
  std::fill(s.sum, s.sum + kTile, 0.0f);

  const int64_t visible = last_key[lanes - 1] + 1;
  for (int64_t j0 = 0; j0 < visible; j0 += kTile) {
    const int64_t keys = std::min(kTile, visible - j0);
    load_rows<W>(s.keys, D, keys, 1.0f, [&](int64_t j) { return key(call.k, j0 + j); });
    multiply<W, false>(s.scores, {s.keys, D, 1}, s.q, keys, D, lanes);
    if (j0 + keys - 1 > last_key[0]) mask_scores<W>(s.scores, keys, j0, last_key, lanes);
    online_softmax<W>(s, keys, D, lanes);
    load_rows<W>(s.keys, D, keys, 1.0f, [&](int64_t j) { return key(call.v, j0 + j); });
    multiply<W, true>(s.o, {s.keys, 1, D}, s.scores, D, keys, lanes);
  }
  store_transposed<W>(s.o, D, rows, [&](int64_t l) { return element(call.o, l); },
                      [&](int64_t l) { return 1.0f / load<W>(s.sum + l); });
  if (call.lse)
    for (int64_t l = 0; l < rows; ++l) {
      const int64_t r = r0 + l, head = item.kv_head * call.G + r % call.G;
      call.lse[(sequence.q_begin + r / call.G) * H + head] = s.max[l] + std::log(s.sum[l]);
    }
}

}  // namespace

void attention(ThreadPool& pool, MatrixView o, TensorView lse, MatrixView q, MatrixView k, MatrixView v,
               TensorView sequences, const AttentionShape& shape, std::span<float> scratch) {
  const Call call{o, q, k, v, lse ? lse.as<float>() : nullptr, shape, shape.H / shape.Hkv};
  const auto length = [&](const Sequence& sequence) { return sequence.q_len * call.G; };
  const WorkList work(sequences, shape.Hkv, length);
  with_activation(q.dtype, [&]<typename X>(Type<X>) {
    for_items(pool, work.count(), scratch, Scratch::floats(shape.D), [&](int64_t i, float* mine) {
      vectorised([&](auto vector) { forward_tile<vector.kCount, X>(call, work.item(i, length), mine); });
    });
  });
}

}  // namespace lema::cpu
