// Attention in f32 for any head size to 256: a warp per query and head, or per key and head, 32
// scores at a time, one to a lane; then the lanes turn to the columns of the head.
#include "cuda/attention.h"
#include "cuda/attention_tiles.cuh"
#include "cuda/check.h"
#include "cuda/reduce.cuh"
#include "cuda/types.cuh"
#include "dispatch.h"

namespace lema::cuda {
namespace {

constexpr int kWarps = 4;                    // of a block: as many rows of a tile
constexpr int kColumns = kLargestHead / 32;  // of a lane

template <typename X>
struct Heads {
  Rows<X> q, k, v, o, d_o, dq, dk, dv;
  float* lse;
  Rows<float> delta;
  const int32_t* sequences;
  int count, H, G, D, window;
  float scale;
  explicit Heads(const AttentionCall& c)
      : q(c.q),
        k(c.k),
        v(c.v),
        o(c.o),
        d_o(c.d_o),
        dq(c.dq),
        dk(c.dk),
        dv(c.dv),
        lse(c.lse),
        delta(c.delta),
        sequences(c.sequences),
        count(static_cast<int>(c.count)),
        H(static_cast<int>(c.shape.H)),
        G(static_cast<int>(c.shape.H / c.shape.Hkv)),
        D(static_cast<int>(c.shape.D)),
        window(static_cast<int>(c.shape.window)),
        scale(c.shape.scale) {}
};

// The columns of one head that a lane holds: lane, lane + 32, ...
struct Columns {
  float v[kColumns] = {};
  template <typename X>
  __device__ void add(float factor, const X* row, int D) {
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const int d = i * 32 + threadIdx.x % 32;
      if (d < D) v[i] += factor * to_float(row[d]);
    }
  }
  template <typename X>
  __device__ void store(X* row, int D, float factor) const {
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const int d = i * 32 + threadIdx.x % 32;
      if (d < D) row[d] = from_float<X>(v[i] * factor);
    }
  }
};

template <typename X>
__device__ float dot(const X* a, const X* b, int D) {
  float sum = 0;
  for (int d = 0; d < D; ++d) sum += to_float(a[d]) * to_float(b[d]);
  return sum;
}

// A warp's query: its place, and the keys that it sees.
struct Query {
  Sequence sequence;
  int i, head, kv_head, first, last;
  int64_t row;
};

template <typename X>
__device__ bool find_query(const Heads<X>& a, Query& query) {
  int first_row;
  if (!find_tile<false>(a.sequences, a.count, kWarps, static_cast<int>(blockIdx.y), query.sequence,
                        first_row))
    return false;
  query.i = first_row + static_cast<int>(threadIdx.x / 32);
  query.head = static_cast<int>(blockIdx.x);
  query.kv_head = query.head / a.G;
  query.row = query.sequence.q_begin + query.i;
  query.first = query.sequence.first_key(query.i, a.window);
  query.last = query.sequence.last_key(query.i);
  return query.i < query.sequence.q_len;
}

template <typename X>
__global__ void __launch_bounds__(32 * kWarps) forward(Heads<X> a) {
  Query query;
  if (!find_query(a, query)) return;
  const int lane = threadIdx.x % 32, head_column = query.head * a.D,
            kv_column = query.kv_head * a.D;
  const X* q = a.q.at(query.row, head_column);
  Columns sum;
  float max = -INFINITY, total = 0;
  for (int j0 = query.first; j0 <= query.last; j0 += 32) {
    const int j = j0 + lane, keys = min(32, query.last + 1 - j0);
    const float score = lane < keys
                            ? a.scale * dot(q, a.k.at(query.sequence.kv_begin + j, kv_column), a.D)
                            : -INFINITY;
    const float new_max = fmaxf(max, warp_max(score));
    const float rescale = expf(max - new_max), p = lane < keys ? expf(score - new_max) : 0.0f;
    total = total * rescale + warp_sum(p);
    max = new_max;
#pragma unroll
    for (float& x : sum.v) x *= rescale;
    for (int l = 0; l < keys; ++l)
      sum.add(__shfl_sync(0xffffffffu, p, l), a.v.at(query.sequence.kv_begin + j0 + l, kv_column),
              a.D);
  }
  sum.store(a.o.at(query.row, head_column), a.D, 1.0f / total);
  if (a.lse != nullptr && lane == 0) a.lse[query.row * a.H + query.head] = max + logf(total);
}

// dq, and delta on the way: P = exp(score - lse), dP = d_o v^T, dS = P (dP - delta), dq = scale dS
// k.
template <typename X>
__global__ void __launch_bounds__(32 * kWarps) backward_by_query(Heads<X> a) {
  Query query;
  if (!find_query(a, query)) return;
  const int lane = threadIdx.x % 32, head_column = query.head * a.D,
            kv_column = query.kv_head * a.D;
  const X *q = a.q.at(query.row, head_column), *d_o = a.d_o.at(query.row, head_column),
          *o = a.o.at(query.row, head_column);
  float partial = 0;
  for (int d = lane; d < a.D; d += 32) partial += to_float(d_o[d]) * to_float(o[d]);
  const float delta = warp_sum(partial), lse = a.lse[query.row * a.H + query.head];
  if (lane == 0) *a.delta.at(query.row, query.head) = delta;
  Columns sum;
  for (int j0 = query.first; j0 <= query.last; j0 += 32) {
    const int keys = min(32, query.last + 1 - j0);
    float ds = 0;
    if (lane < keys) {
      const int64_t key = query.sequence.kv_begin + j0 + lane;
      const float p = expf(a.scale * dot(q, a.k.at(key, kv_column), a.D) - lse);
      ds = p * (dot(d_o, a.v.at(key, kv_column), a.D) - delta);
    }
    for (int l = 0; l < keys; ++l)
      sum.add(__shfl_sync(0xffffffffu, ds, l), a.k.at(query.sequence.kv_begin + j0 + l, kv_column),
              a.D);
  }
  sum.store(a.dq.at(query.row, head_column), a.D, a.scale);
}

// dk = scale dS^T q and dv = P^T d_o of one key, over the heads of its group and the queries that
// see it, in order. Four blocks at a time: aiming at more, ptxas spills registers on sm_80.
template <typename X>
__global__ void __launch_bounds__(32 * kWarps, 4) backward_by_key(Heads<X> a) {
  Sequence sequence;
  int first_row;
  if (!find_tile<true>(a.sequences, a.count, kWarps, static_cast<int>(blockIdx.y), sequence,
                       first_row))
    return;
  const int j = first_row + static_cast<int>(threadIdx.x / 32), lane = threadIdx.x % 32;
  if (j >= sequence.kv_len) return;
  const int kv_head = static_cast<int>(blockIdx.x), kv_column = kv_head * a.D;
  const int64_t key = sequence.kv_begin + j;
  const X *k = a.k.at(key, kv_column), *v = a.v.at(key, kv_column);
  const int end = a.window == 0 ? sequence.q_len : min(sequence.q_len, j + a.window);
  Columns dk, dv;
  for (int head = kv_head * a.G; head < (kv_head + 1) * a.G; ++head)
    for (int i0 = j; i0 < end; i0 += 32) {
      const int queries = min(32, end - i0);
      float p = 0, ds = 0;
      if (lane < queries) {
        const int64_t row = sequence.q_begin + i0 + lane;
        p = expf(a.scale * dot(a.q.at(row, head * a.D), k, a.D) - a.lse[row * a.H + head]);
        ds = p * (dot(a.d_o.at(row, head * a.D), v, a.D) - *a.delta.at(row, head));
      }
      for (int l = 0; l < queries; ++l) {
        const int64_t row = sequence.q_begin + i0 + l;
        dk.add(__shfl_sync(0xffffffffu, ds, l), a.q.at(row, head * a.D), a.D);
        dv.add(__shfl_sync(0xffffffffu, p, l), a.d_o.at(row, head * a.D), a.D);
      }
    }
  dk.store(a.dk.at(key, kv_column), a.D, a.scale);
  dv.store(a.dv.at(key, kv_column), a.D, 1.0f);
}

dim3 grid(int64_t heads, int64_t rows, int64_t count) {
  const int64_t tiles = tile_bound(rows, count, kWarps);
  check(tiles <= 65535, "attention in f32: {} rows in a call, {} at most", rows, 65535 * kWarps);
  return {static_cast<unsigned>(heads), static_cast<unsigned>(tiles)};
}

}  // namespace

void plain_attention(cudaStream_t stream, const AttentionCall& c) {
  with_storage(c.q.dtype, [&]<typename X>(Type<X>) {
    forward<X><<<grid(c.shape.H, c.q.rows, c.count), 32 * kWarps, 0, stream>>>(Heads<X>(c));
    check_launch("plain_attention");
  });
}

void plain_attention_backward(cudaStream_t stream, const AttentionCall& c) {
  with_storage(c.q.dtype, [&]<typename X>(Type<X>) {
    backward_by_query<X>
        <<<grid(c.shape.H, c.q.rows, c.count), 32 * kWarps, 0, stream>>>(Heads<X>(c));
    check_launch("plain_attention_backward by query");
    backward_by_key<X>
        <<<grid(c.shape.Hkv, c.k.rows, c.count), 32 * kWarps, 0, stream>>>(Heads<X>(c));
    check_launch("plain_attention_backward by key");
  });
}

}  // namespace lema::cuda
