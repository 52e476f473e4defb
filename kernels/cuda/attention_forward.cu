// Attention forward on tensor cores: a block takes 64 queries of one head, a warp 16 of them, and
// walks over the keys that they see with the online softmax. Scores never leave registers; the next
// keys and values are on their way while these are worked on.
#include "cuda/attention_launch.cuh"

namespace lema::cuda {
namespace {

template <int D, bool turing>
struct ForwardShape {
  static constexpr int kKeys = D <= 128 ? 64 : 32;
  // Tiles of keys and values in shared memory.
  static constexpr int kStages = D <= (turing ? 80 : 128) ? 2 : 1;
  static constexpr int kKeyTile = kKeys * kPitch<D>, kQueryTile = kAttentionRows * kPitch<D>;
  static constexpr int kSharedBytes = (kQueryTile + 2 * kStages * kKeyTile) * kElement;
};

// The two rows of a thread, g and g + 8 of its warp's 16.
struct RowState {
  float max[2] = {-INFINITY, -INFINITY}, sum[2] = {};
};

// scores become P; o and the state follow the running maximum.
template <int n, int m>
__device__ void online_softmax(float (&scores)[n][4], float (&o)[m][4], RowState& state,
                               float scale_log2) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float max = state.max[half];
#pragma unroll
    for (int j = 0; j < n; ++j)
      max = fmaxf(max, fmaxf(scores[j][2 * half], scores[j][2 * half + 1]));
    max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 1));
    max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 2));
    // A row that has seen no key yet keeps zeros.
    const float base = max == -INFINITY ? 0.0f : max * scale_log2;
    const float rescale = exp2f(state.max[half] * scale_log2 - base);
    float sum = 0;
#pragma unroll
    for (int j = 0; j < n; ++j)
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; ++e) {
        scores[j][e] = exp2f(scores[j][e] * scale_log2 - base);
        sum += scores[j][e];
      }
    state.sum[half] = state.sum[half] * rescale + sum;
    state.max[half] = max;
#pragma unroll
    for (int c = 0; c < m; ++c) {
      o[c][2 * half] *= rescale;
      o[c][2 * half + 1] *= rescale;
    }
  }
}

template <int D, typename X>
__global__ void __launch_bounds__(kAttentionThreads, kAttentionBlocks)
    forward(TensorCoreCall<X> a) {
  using S = ForwardShape<D, kTuring>;
  if constexpr (!kIsCalled<D, X>) return;
  extern __shared__ __align__(16) unsigned char shared[];
  auto* q_tile = reinterpret_cast<X*>(shared);
  X* stages = q_tile + S::kQueryTile;  // keys, then values, of each stage

  Sequence sequence;
  int r0;
  if (!find_tile<false>(a.sequences, a.count, kAttentionRows, static_cast<int>(blockIdx.y),
                        sequence, r0))
    return;
  const int head = static_cast<int>(blockIdx.x), q_column = head * D, kv_column = head / a.G * D;
  const int rows = min(kAttentionRows, sequence.q_len - r0);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const int begin = sequence.first_key(r0, a.window) / S::kKeys * S::kKeys;
  const int end = sequence.last_key(r0 + rows - 1) + 1;

  const auto copy_keys = [&](int stage, int j0) {
    const int64_t row = sequence.kv_begin + j0;
    X* tile = stages + stage * 2 * S::kKeyTile;
    copy_tile<D, S::kKeys, kAttentionThreads>(tile, a.k.at(row, kv_column), a.k.stride, end - j0,
                                              a.k.packed);
    copy_tile<D, S::kKeys, kAttentionThreads>(tile + S::kKeyTile, a.v.at(row, kv_column),
                                              a.v.stride, end - j0, a.v.packed);
    end_copy_group();
  };
  copy_tile<D, kAttentionRows, kAttentionThreads>(q_tile, a.q.at(sequence.q_begin + r0, q_column),
                                                  a.q.stride, rows, a.q.packed);
  copy_keys(0, begin);

  float o[D / 8][4] = {};
  RowState state;
  const float scale_log2 = a.scale * kLog2e;
  int last[2], first[2];
  for (int half = 0; half < 2; ++half) {
    const int row = min(r0 + warp * 16 + g + 8 * half, sequence.q_len - 1);
    last[half] = sequence.last_key(row);
    first[half] = sequence.first_key(row, a.window);
  }
  int stage = 0;
  for (int j0 = begin; j0 < end; j0 += S::kKeys) {
    const bool more = j0 + S::kKeys < end;
    if (S::kStages == 2 && more) {
      copy_keys(stage ^ 1, j0 + S::kKeys);
      wait_copies<1>();
    } else {
      wait_copies<0>();
    }
    __syncthreads();
    const X* keys = stages + stage * 2 * S::kKeyTile;
    float scores[S::kKeys / 8][4] = {};
    multiply_rows<D>(scores, q_tile + warp * 16 * kPitch<D>, keys);
    // Only tiles at an edge of what some row sees need the mask.
    if (j0 + S::kKeys > sequence.last_key(r0) + 1 ||
        j0 < sequence.first_key(r0 + rows - 1, a.window)) {
#pragma unroll
      for (int j = 0; j < S::kKeys / 8; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int key = j0 + j * 8 + 2 * t + e % 2;
          if (key > last[e / 2] || key < first[e / 2]) scores[j][e] = -INFINITY;
        }
    }
    online_softmax(scores, o, state, scale_log2);
    multiply_weights<D>(o, scores, keys + S::kKeyTile);
    __syncthreads();  // the tile may be overwritten
    if (S::kStages == 2)
      stage ^= 1;
    else if (more)
      copy_keys(0, j0 + S::kKeys);
  }

  float inverse[2];
  for (int half = 0; half < 2; ++half) {
    float sum = state.sum[half];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    inverse[half] = 1.0f / sum;
    const int row = warp * 16 + g + 8 * half;
    if (a.lse != nullptr && t == 0 && row < rows)
      a.lse[int64_t{sequence.q_begin + r0 + row} * a.H + head] =
          state.max[half] * a.scale + logf(sum);
  }
  store_tile<D>(a.o.at(sequence.q_begin + r0 + warp * 16, q_column), a.o.stride, rows - warp * 16,
                a.o.packed, o, inverse, q_tile + warp * 16 * kPitch<D>);
}

}  // namespace

void tensor_core_attention(cudaStream_t stream, const AttentionCall& call) {
  with_tensor_core_type(call.q.dtype, [&](auto type) {
    using X = decltype(type);
    with_head_size(call.shape.D, [&](auto D) {
      launch_attention<ForwardShape, D(), X>(stream, "attention", forward<D(), X>, call.shape.H,
                                             call.q.rows, 1, call);
    });
  });
}

}  // namespace lema::cuda
