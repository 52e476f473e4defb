// What both attention passes are made of: tiles of f32 in a thread's scratch, the small products
// between them, and the split of a call into work items. Used by attention.cpp and
// attention_backward.cpp.
//
// Orientation. A tile lies as (rows, kTile) with its longer-lived side across the lanes of vectors:
// 64 queries in the passes over query tiles, 64 keys in the pass over key tiles. Then maxima, sums
// and scalings are vertical, operands loaded once per work item are transposed once, and those
// loaded per step are only broadcast, so any head size does.
//
// The G = H / Hkv query heads of a key-value head share its tiles: "row" r of a (sequence,
// key-value head) is query r / G with head r % G of the group.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <span>
#include <utility>

#include "core/error.h"
#include "core/thread_pool.h"
#include "cpu/gemm_bf16.h"
#include "cpu/simd.h"
#include "cpu/transpose.h"
#include "ops.h"

namespace lema::cpu {

inline constexpr int64_t kTile = 64;  // 64 x 64 floats: three such tiles fill 48 KiB of L1

struct Sequence {
  int64_t q_begin, q_len, kv_begin, kv_len;
  // Indices of the first and the last key that query i sees.
  int64_t last_key(int64_t i) const { return kv_len - q_len + i; }
  int64_t first_key(int64_t i, int64_t window) const {
    return window == 0 ? 0 : std::max<int64_t>(0, last_key(i) - window + 1);
  }
};

// One (sequence, key-value head, tile) of a call.
struct WorkItem {
  Sequence sequence;
  int64_t kv_head, tile;
};

// Where the rows and keys of one (sequence, key-value head) lie in the matrices of a call.
template <typename X>
struct Rows {
  const Sequence& sequence;
  int64_t kv_head, G, H, D, window;
  Rows(const WorkItem& item, const AttentionShape& shape)
      : sequence(item.sequence),
        kv_head(item.kv_head),
        G(shape.H / shape.Hkv),
        H(shape.H),
        D(shape.D),
        window(shape.window) {}

  int64_t query(int64_t r) const { return sequence.q_begin + r / G; }
  int64_t head(int64_t r) const { return kv_head * G + r % G; }
  int64_t last_key(int64_t r) const { return sequence.last_key(r / G); }
  int64_t first_key(int64_t r) const { return sequence.first_key(r / G, window); }
  // Index into a tensor (Nq, H).
  int64_t index(int64_t r) const { return query(r) * H + head(r); }
  X* of_query(const MatrixView& m, int64_t r) const { return row<X>(m, query(r)) + head(r) * D; }
  X* of_key(const MatrixView& m, int64_t j) const {
    return row<X>(m, sequence.kv_begin + j) + kv_head * D;
  }
};

// The work items of a call: every sequence cut into tiles of its rows (or keys), times the
// key-value heads.
class WorkList {
 public:
  // length(sequence): rows to be cut into tiles.
  template <typename Length>
  WorkList(const TensorView& sequences, int64_t kv_heads, const Length& length)
      : table_(static_cast<const int32_t*>(sequences.data)), kv_heads_(kv_heads) {
    for (int64_t s = 0; s < sequences.shape[0]; ++s) count_ += tiles(length(at(s))) * kv_heads_;
  }
  int64_t count() const { return count_; }

  // Item i, the last tiles of a sequence first: under the causal mask a late query tile has the
  // most keys.
  template <typename Length>
  WorkItem item(int64_t i, const Length& length) const {
    int64_t s = 0;
    for (; i >= tiles(length(at(s))) * kv_heads_; ++s) i -= tiles(length(at(s))) * kv_heads_;
    const Sequence sequence = at(s);
    return {sequence, i % kv_heads_, tiles(length(sequence)) - 1 - i / kv_heads_};
  }

 private:
  static int64_t tiles(int64_t length) { return (length + kTile - 1) / kTile; }
  Sequence at(int64_t s) const {
    return {table_[4 * s], table_[4 * s + 1], table_[4 * s + 2], table_[4 * s + 3]};
  }
  const int32_t* table_;
  int64_t kv_heads_, count_ = 0;
};

// body(i, scratch of the running thread) for i in [0, count): one task a thread, each drawing items
// until none is left.
template <typename Body>
void for_items(ThreadPool& pool, int64_t count, std::span<float> scratch, int64_t floats_per_thread,
               const Body& body) {
  check(static_cast<int64_t>(scratch.size()) >= floats_per_thread * pool.threads(),
        "attention scratch of {} floats, {} threads need {} each", scratch.size(), pool.threads(),
        floats_per_thread);
  std::atomic<int64_t> next = 0;
  const auto draw = [&](int64_t thread) {
    float* mine = scratch.data() + thread * floats_per_thread;
    for (int64_t i = next++; i < count; i = next++) body(i, mine);
  };
  pool.parallel_for(std::min<int64_t>(pool.threads(), count), std::ref(draw));
}

// What each lane's query row sees. Lanes past the rows see what the last row sees.
struct VisibleKeys {
  int32_t first[kTile], last[kTile];
  int64_t begin, end;  // of any lane: [begin, end). A tile of keys at `begin` has one of each lane.

  template <typename X>
  VisibleKeys(const Rows<X>& at, int64_t r0, int64_t rows, int64_t lanes)
      : begin(at.first_key(r0)), end(at.last_key(r0 + rows - 1) + 1) {
    for (int64_t l = 0; l < lanes; ++l) {
      const int64_t r = r0 + std::min(l, rows - 1);
      first[l] = static_cast<int32_t>(at.first_key(r));
      last[l] = static_cast<int32_t>(at.last_key(r));
    }
  }
  // Whether lanes see keys [begin, end) apart.
  bool differ(int64_t keys_begin, int64_t keys_end, int64_t lanes) const {
    return keys_end - 1 > last[0] || keys_begin < first[lanes - 1];
  }
};

// Lanes of x where `index` is in [first, last], `other` elsewhere. By signs of differences: GCC 12
// computes comparisons of integers element by element in functions that are inlined into those of
// an instruction set.
template <int W>
[[gnu::always_inline]] inline Floats<W> where_seen(Ints<W> index, Ints<W> first, Ints<W> last,
                                                   Floats<W> x, Floats<W> other) {
  const Ints<W> hidden = ((last - index) | (index - first)) >> 31;
  return reinterpret_cast<Floats<W>>((hidden & reinterpret_cast<Ints<W>>(other)) |
                                     (~hidden & reinterpret_cast<Ints<W>>(x)));
}
// x of the W lanes at l, `other` where key `key` is hidden from them.
template <int W>
[[gnu::always_inline]] inline Floats<W> where_seen(const VisibleKeys& visible, int64_t l,
                                                   int64_t key, Floats<W> x, Floats<W> other) {
  Ints<W> first, last;
  std::memcpy(&first, visible.first + l, sizeof first);
  std::memcpy(&last, visible.last + l, sizeof last);
  return where_seen<W>(Ints<W>{} + static_cast<int32_t>(key), first, last, x, other);
}

// A count of lanes or of a row's elements, rounded up to whole vectors of W floats.
template <int W>
int64_t whole_vectors(int64_t lanes) {
  return (lanes + W - 1) / W * W;
}

// Floats of a tile of kTile rows of D elements, or of D rows of kTile.
inline int64_t tile_floats(int64_t D) { return kTile * whole_vectors<16>(D); }

// Lane l of the result is the sum of all lanes of v[l]: each step adds pairs of lanes and halves
// the vectors.
template <int W, int S = 1>
[[gnu::always_inline]] inline Floats<W> sum_each(Floats<W> (&v)[W]) {
  if constexpr (S == W) {
    return v[0];
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < W / (2 * S); ++i) {
      exchange<S, W>(v[2 * i], v[2 * i + 1], std::make_index_sequence<W>{});
      v[i] = v[2 * i] + v[2 * i + 1];
    }
    return sum_each<W, 2 * S>(v);
  }
}

// to (D, kTile): column l is the D elements at row(l), l < lanes; zero up to whole vectors.
template <int W, typename Row>
void load_transposed(float* to, int64_t D, int64_t lanes, const Row& row) {
  for (int64_t l0 = 0; l0 < lanes; l0 += W) {
    decltype(row(0)) from[W];
    const auto filled = static_cast<int>(std::min<int64_t>(W, lanes - l0));
    for (int l = 0; l < filled; ++l) from[l] = row(l0 + l);
    for_columns<W>(D, [&](int64_t d, auto n) {
      Floats<W> v[W];
#pragma GCC unroll 16
      for (int l = 0; l < W; ++l) v[l] = l < filled ? load<W>(from[l] + d, n) : Floats<W>{};
      transpose<W>(v);
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i)
        if (i < n) store<W>(to + (d + i) * kTile + l0, v[i]);
    });
  }
}

// The D elements at row(l) = column l of `from` (D, kTile) * lane l of the scales, l < lanes: the
// way back. scale(l0) holds the scales of lanes l0, ... l0 + W.
template <int W, typename Row, typename Scale>
void store_transposed(const float* from, int64_t D, int64_t lanes, const Row& row,
                      const Scale& scale) {
  for (int64_t l0 = 0; l0 < lanes; l0 += W) {
    decltype(row(0)) to[W];
    const auto filled = static_cast<int>(std::min<int64_t>(W, lanes - l0));
    for (int l = 0; l < filled; ++l) to[l] = row(l0 + l);
    const Floats<W> scales = scale(l0);
    for_columns<W>(D, [&](int64_t d, auto n) {
      Floats<W> v[W] = {};
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i)
        if (i < n) v[i] = load<W>(from + (d + i) * kTile + l0) * scales;
      transpose<W>(v);
#pragma GCC unroll 16
      for (int l = 0; l < W; ++l)
        if (l < filled) store<W>(to[l] + d, v[l], n);
    });
  }
}

// to (rows, whole_vectors(D)): row r is scale * the D elements at row(r), then zeros.
template <int W, typename Row>
void load_rows(float* to, int64_t D, int64_t rows, float scale, const Row& row) {
  const int64_t pitch = whole_vectors<W>(D);
  for (int64_t r = 0; r < rows; ++r) {
    const auto* from = row(r);
    for_columns<W>(
        D, [&](int64_t d, auto n) { store<W>(to + r * pitch + d, load<W>(from + d, n) * scale); });
  }
}

// Left operand of a small product: element (m, k) is data[m * row + k * col].
struct Broadcast {
  const float* data;
  int64_t row, col;
};

// c (M, lanes) (=|+=) a (M, K) b (K, lanes), f32; rows of b and c are `pitch` apart, lanes in whole
// vectors of the instruction set in use. Compiled once, in attention_tile.cpp, whatever the dtype
// of the call.
void multiply(float* c, Broadcast a, const float* b, int64_t M, int64_t K, int64_t lanes,
              int64_t pitch, Write write);

// The products of both passes, in f32. Rows (n, D) are a left operand, as they lie or transposed;
// lanes (D, kTile) a right one, which lives longer. Both are laid out in tile_floats(D) floats.
template <int W>
struct FloatProducts {
  static int64_t scratch_floats(int64_t) { return 0; }

  template <typename Row>
  static void lay_rows(float* to, int64_t D, int64_t n, const Row& row) {
    load_rows<W>(to, D, n, 1.0f, row);
  }
  template <typename Row>
  static void lay_lanes(float* to, float*, int64_t D, int64_t lanes, const Row& row) {
    load_transposed<W>(to, D, lanes, row);
  }
  // c (n, kTile) = rows (n, D) right (D, lanes)
  static void score(float* c, const float* rows, const float* right, float*, int64_t n, int64_t D,
                    int64_t lanes) {
    multiply(c, {rows, whole_vectors<W>(D), 1}, right, n, D, lanes, kTile, Write::Overwrite);
  }
  // sum (D, kTile) += rows^T (D, n) weights (n, lanes), rows of weights kTile apart
  static void add(float* sum, const float* rows, const float* weights, float*, int64_t n, int64_t D,
                  int64_t lanes) {
    multiply(sum, {rows, 1, whole_vectors<W>(D)}, weights, D, n, lanes, kTile, Write::Accumulate);
  }
};

// The same where bf16 numbers are multiplied in pairs (gemm_bf16.h): weights are rounded to bf16,
// sums are f32.
struct PairProducts {
  static int64_t scratch_floats(int64_t D) { return panel_floats(kTile, kTile) + tile_floats(D); }

  template <typename Row>
  static void lay_rows(float* to, int64_t D, int64_t n, const Row& row) {
    auto* rows = reinterpret_cast<bf16*>(to);
    constexpr int64_t kStep = 32;  // of a size known to the compiler: no call for 64 bytes
    for (int64_t r = 0; r < n; ++r, rows += D) {
      const bf16* from = row(r);
      int64_t d = 0;
      for (; d + kStep <= D; d += kStep) std::memcpy(rows + d, from + d, kStep * sizeof(bf16));
      std::memcpy(rows + d, from + d, static_cast<size_t>(D - d) * sizeof(bf16));
    }
  }
  template <typename Row>
  static void lay_lanes(float* to, float* scratch, int64_t D, int64_t lanes, const Row& row) {
    lay_rows(scratch, D, lanes, row);
    pack_pairs(panel(to, D), Operand{scratch, DType::BF16, D, 1}.transposed(), lanes);
  }
  static void score(float* c, const float* rows, const float* right, float* scratch, int64_t n,
                    int64_t D, int64_t lanes) {
    multiply_pairs(c, kTile, {rows, DType::BF16, D, 1}, panel(const_cast<float*>(right), D), n,
                   lanes, D, Write::Overwrite, DType::BF16, scratch);
  }
  static void add(float* sum, const float* rows, const float* weights, float* scratch, int64_t n,
                  int64_t D, int64_t lanes) {
    const Panel pairs = panel(scratch, n);
    pack_pairs(pairs, {weights, DType::F32, kTile, 1}, lanes);
    multiply_pairs(sum, kTile, Operand{rows, DType::BF16, D, 1}.transposed(), pairs, D, lanes, n,
                   Write::Accumulate, DType::BF16, scratch + panel_floats(kTile, kTile));
  }

 private:
  static Panel panel(float* data, int64_t K) { return {.data = data, .K = K, .pairs = true}; }
};

// body(vector, products) with the instruction set and the products of this CPU for elements X.
template <typename X, typename Body>
void with_products(const Body& body) {
  const bool pairs = std::is_same_v<X, bf16> && packs_pairs(DType::BF16, DType::BF16);
  vectorised([&](auto vector) {
    if constexpr (std::is_same_v<X, bf16>)
      if (pairs) return body(vector, PairProducts{});
    body(vector, FloatProducts<vector.kCount>{});
  });
}

}  // namespace lema::cpu
