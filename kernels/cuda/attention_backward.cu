// Attention backward on tensor cores. The scores are computed again from q, k and lse. With
// P = exp(score - lse), dP = d_o v^T, delta = sum(d_o o) and dS = P (dP - delta):
//   dq = scale dS k,   dk = scale dS^T q,   dv = P^T d_o.
// dq is a pass over query tiles, dk and dv one over key tiles: seven products instead of five, for
// one writer per element and a fixed order without atomics. Ref: arXiv:2307.08691 section 3.1.
#include "cuda/attention_launch.cuh"
#include "cuda/reduce.cuh"

namespace lema::cuda {
namespace {

// delta (Nq, H): a warp per row and head.
template <typename X>
__global__ void __launch_bounds__(kAttentionThreads)
    row_delta(TensorCoreCall<X> a, int64_t rows, int D) {
  const int64_t i = int64_t{blockIdx.x} * (kAttentionThreads / 32) + threadIdx.x / 32;
  if (i >= rows * a.H) return;
  const int64_t row = i / a.H;
  const int head = static_cast<int>(i % a.H);
  const X *d_o = a.d_o.at(row, head * D), *o = a.o.at(row, head * D);
  float sum = 0;
  for (int d = threadIdx.x % 32; d < D; d += 32) sum += to_float(d_o[d]) * to_float(o[d]);
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) a.delta[row * a.delta_stride + head] = sum;
}

template <int D, bool turing>
struct QueryShape {
  static constexpr int kKeys = D <= (turing ? 96 : 128) ? 64 : 32;
  static constexpr int kKeyTile = kKeys * kPitch<D>, kQueryTile = kAttentionRows * kPitch<D>;
  static constexpr int kSharedBytes = 2 * (kQueryTile + kKeyTile) * kElement;
};

template <int D, typename X>
__global__ void __launch_bounds__(kAttentionThreads, kAttentionBlocks)
    by_query(TensorCoreCall<X> a) {
  using S = QueryShape<D, kTuring>;
  if constexpr (!kIsCalled<D, X>) return;
  extern __shared__ __align__(16) unsigned char shared[];
  auto* q_tile = reinterpret_cast<X*>(shared);
  X *grad_tile = q_tile + S::kQueryTile, *k_tile = grad_tile + S::kQueryTile,
       *v_tile = k_tile + S::kKeyTile;

  Sequence sequence;
  int r0;
  if (!find_tile<false>(a.sequences, a.count, kAttentionRows, static_cast<int>(blockIdx.y),
                        sequence, r0))
    return;
  const int head = static_cast<int>(blockIdx.x), q_column = head * D, kv_column = head / a.G * D;
  const int rows = min(kAttentionRows, sequence.q_len - r0);
  const int64_t first_row = sequence.q_begin + r0;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const int begin = sequence.first_key(r0, a.window) / S::kKeys * S::kKeys;
  const int end = sequence.last_key(r0 + rows - 1) + 1;

  copy_tile<D, kAttentionRows, kAttentionThreads>(q_tile, a.q.at(first_row, q_column), a.q.stride,
                                                  rows, a.q.packed);
  copy_tile<D, kAttentionRows, kAttentionThreads>(grad_tile, a.d_o.at(first_row, q_column),
                                                  a.d_o.stride, rows, a.d_o.packed);
  int last[2], first[2];
  float lse[2], delta[2];
  for (int half = 0; half < 2; ++half) {
    const int row = min(warp * 16 + g + 8 * half, rows - 1);
    last[half] = sequence.last_key(r0 + row);
    first[half] = sequence.first_key(r0 + row, a.window);
    lse[half] = a.lse[(first_row + row) * a.H + head] * kLog2e;
    delta[half] = a.delta[(first_row + row) * a.delta_stride + head];
  }
  const float scale_log2 = a.scale * kLog2e;
  float dq[D / 8][4] = {};
  for (int j0 = begin; j0 < end; j0 += S::kKeys) {
    const int64_t key_row = sequence.kv_begin + j0;
    copy_tile<D, S::kKeys, kAttentionThreads>(k_tile, a.k.at(key_row, kv_column), a.k.stride,
                                              end - j0, a.k.packed);
    copy_tile<D, S::kKeys, kAttentionThreads>(v_tile, a.v.at(key_row, kv_column), a.v.stride,
                                              end - j0, a.v.packed);
    end_copy_group();
    wait_copies<0>();
    __syncthreads();
    float p[S::kKeys / 8][4] = {}, ds[S::kKeys / 8][4] = {};
    multiply_rows<D>(p, q_tile + warp * 16 * kPitch<D>, k_tile);
    multiply_rows<D>(ds, grad_tile + warp * 16 * kPitch<D>, v_tile);
#pragma unroll
    for (int j = 0; j < S::kKeys / 8; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int key = j0 + j * 8 + 2 * t + e % 2, half = e / 2;
        const float seen = exp2f(p[j][e] * scale_log2 - lse[half]);
        ds[j][e] = key > last[half] || key < first[half] ? 0.0f : seen * (ds[j][e] - delta[half]);
      }
    multiply_weights<D>(dq, ds, k_tile);
    __syncthreads();  // the tiles may be overwritten
  }
  const float factor[2] = {a.scale, a.scale};
  store_tile<D>(a.dq.at(first_row + warp * 16, q_column), a.dq.stride, rows - warp * 16,
                a.dq.packed, dq, factor, q_tile + warp * 16 * kPitch<D>);
}

// A block holds 64 keys and the gradients of kOut of their columns: all, or half of 256.
template <int D>
inline constexpr int kOut = D <= 128 ? D : 128;

template <int D, bool turing>
struct KeyShape {
  // As many as registers hold the sums for.
  static constexpr int kQueries = D <= (turing ? 80 : 96) ? 64 : 32;
  static constexpr int kKeyTile = kAttentionRows * kPitch<D>, kQueryTile = kQueries * kPitch<D>;
  static constexpr int kSharedBytes = 2 * (kQueryTile + kKeyTile) * kElement;
};

// lse and delta of query i lie behind its row of the tile, in the padding.
template <int D, typename X>
__device__ float2* row_values(X* q_tile, int i) {
  static_assert((kPitch<D> - D) * sizeof(X) >= sizeof(float2));
  return reinterpret_cast<float2*>(q_tile + i * kPitch<D> + D);
}

// p and ds (keys, queries) from scores in p and dP in ds; the columns of a sum are queries.
template <int D, int n, typename X>
__device__ void softmax_gradient(float (&p)[n][4], float (&ds)[n][4], const Sequence& sequence,
                                 const TensorCoreCall<X>& a, int i0, int first_key, X* q_tile) {
  const int lane = threadIdx.x % 32, t = lane % 4;
  const float scale_log2 = a.scale * kLog2e;
#pragma unroll
  for (int j = 0; j < n; ++j)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int column = j * 8 + 2 * t + e % 2, i = i0 + column, key = first_key + 8 * (e / 2);
      const bool sees = i < sequence.q_len && key <= sequence.last_key(i) &&
                        key >= sequence.first_key(i, a.window);
      const float2 of_row = *row_values<D>(q_tile, column);
      p[j][e] = sees ? exp2f(p[j][e] * scale_log2 - of_row.x) : 0.0f;
      ds[j][e] = sees ? p[j][e] * (ds[j][e] - of_row.y) : 0.0f;
    }
}

template <int D, typename X>
__global__ void __launch_bounds__(kAttentionThreads, kAttentionBlocks)
    by_key(TensorCoreCall<X> a) {
  using S = KeyShape<D, kTuring>;
  if constexpr (!kIsCalled<D, X>) return;
  extern __shared__ __align__(16) unsigned char shared[];
  auto* k_tile = reinterpret_cast<X*>(shared);
  X *v_tile = k_tile + S::kKeyTile, *q_tile = v_tile + S::kKeyTile,
       *grad_tile = q_tile + S::kQueryTile;

  Sequence sequence;
  int j0;
  if (!find_tile<true>(a.sequences, a.count, kAttentionRows, static_cast<int>(blockIdx.y), sequence,
                       j0))
    return;
  const int kv_head = static_cast<int>(blockIdx.x), kv_column = kv_head * D,
            out_column = static_cast<int>(blockIdx.z) * kOut<D>;
  const int keys = min(kAttentionRows, sequence.kv_len - j0);
  const int64_t key_row = sequence.kv_begin + j0;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  copy_tile<D, kAttentionRows, kAttentionThreads>(k_tile, a.k.at(key_row, kv_column), a.k.stride,
                                                  keys, a.k.packed);
  copy_tile<D, kAttentionRows, kAttentionThreads>(v_tile, a.v.at(key_row, kv_column), a.v.stride,
                                                  keys, a.v.packed);
  // Query j0 is the first to see a key of the tile, query j0 + keys - 1 + window - 1 the last.
  const int end = a.window == 0 ? sequence.q_len : min(sequence.q_len, j0 + keys - 1 + a.window);
  float dk[kOut<D> / 8][4] = {}, dv[kOut<D> / 8][4] = {};
  for (int head = kv_head * a.G; head < (kv_head + 1) * a.G; ++head)
    for (int i0 = j0; i0 < end; i0 += S::kQueries) {
      const int64_t row = sequence.q_begin + i0;
      const int queries = min(S::kQueries, end - i0);
      copy_tile<D, S::kQueries, kAttentionThreads>(q_tile, a.q.at(row, head * D), a.q.stride,
                                                   queries, a.q.packed);
      copy_tile<D, S::kQueries, kAttentionThreads>(grad_tile, a.d_o.at(row, head * D), a.d_o.stride,
                                                   queries, a.d_o.packed);
      end_copy_group();
      for (int i = threadIdx.x; i < S::kQueries; i += kAttentionThreads) {
        const int64_t at = row + min(i, queries - 1);
        *row_values<D>(q_tile, i) = {a.lse[at * a.H + head] * kLog2e,
                                     a.delta[at * a.delta_stride + head]};
      }
      wait_copies<0>();
      __syncthreads();
      float p[S::kQueries / 8][4] = {}, ds[S::kQueries / 8][4] = {};
      multiply_rows<D>(p, k_tile + warp * 16 * kPitch<D>, q_tile);
      multiply_rows<D>(ds, v_tile + warp * 16 * kPitch<D>, grad_tile);
      softmax_gradient<D>(p, ds, sequence, a, i0, j0 + warp * 16 + lane / 4, q_tile);
      multiply_weights<D>(dv, p, grad_tile + out_column);
      multiply_weights<D>(dk, ds, q_tile + out_column);
      __syncthreads();  // the tiles may be overwritten
    }
  const float scaled[2] = {a.scale, a.scale}, unscaled[2] = {1, 1};
  const int valid = keys - warp * 16;
  X* staging = k_tile + warp * 16 * kPitch<D>;  // read by this warp alone
  store_tile<D>(a.dk.at(key_row + warp * 16, kv_column + out_column), a.dk.stride, valid,
                a.dk.packed, dk, scaled, staging);
  store_tile<D>(a.dv.at(key_row + warp * 16, kv_column + out_column), a.dv.stride, valid,
                a.dv.packed, dv, unscaled, staging);
}

}  // namespace

void tensor_core_attention_backward(cudaStream_t stream, const AttentionCall& call) {
  const int64_t warps = call.q.rows * call.shape.H, warps_per_block = kAttentionThreads / 32;
  with_tensor_core_type(call.q.dtype, [&](auto type) {
    using X = decltype(type);
    row_delta<<<static_cast<unsigned>((warps + warps_per_block - 1) / warps_per_block),
                kAttentionThreads, 0, stream>>>(TensorCoreCall<X>(call), call.q.rows,
                                                static_cast<int>(call.shape.D));
    check_launch("row_delta");
    with_head_size(call.shape.D, [&](auto D) {
      launch_attention<QueryShape, D(), X>(stream, "attention_backward by query", by_query<D(), X>,
                                           call.shape.H, call.q.rows, 1, call);
      launch_attention<KeyShape, D(), X>(stream, "attention_backward by key", by_key<D(), X>,
                                         call.shape.Hkv, call.k.rows,
                                         D() / kOut<D()>, call);
    });
  });
}

}  // namespace lema::cuda
