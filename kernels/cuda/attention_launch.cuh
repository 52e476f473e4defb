// What the tensor core attention kernels share: their arguments, dispatch by head size, and the
// launch with more shared memory than the default 48 KiB.
#pragma once

#include <type_traits>

#include "cuda/attention.h"
#include "cuda/attention_tiles.cuh"
#include "cuda/check.h"
#include "cuda/mma.cuh"

namespace lema::cuda {

inline constexpr float kLog2e = 1.4426950408889634f;

inline constexpr int kElement = 2;  // bytes of bf16 and f16

inline constexpr int kAttentionThreads = 128, kAttentionRows = 64;  // four warps of 16 rows
// Blocks that a processor is to hold; where none is named, ptxas spills for more on sm_75.
inline constexpr int kAttentionBlocks = kTuring ? 1 : 0;
// What sm_75 calls: the kernels of the rest are empty there.
template <int D, typename X>
inline constexpr bool kIsCalled = !kTuring || (D <= kLargestOfTuring && std::is_same_v<X, f16>);

// A matrix of heads, and whether its rows take 16-byte accesses.
template <typename X>
struct HeadRows {
  X* data;
  int64_t stride;
  bool packed;
  HeadRows(const MatrixView& m)  // NOLINT: reads as the argument it is
      : data(static_cast<X*>(m.data)),
        stride(m.stride),
        packed(reinterpret_cast<uintptr_t>(m.data) % 16 == 0 && m.stride % 8 == 0) {}
  __device__ X* at(int64_t row, int column) const { return data + row * stride + column; }
};

// X: bf16 or f16, of all matrices.
template <typename X>
struct TensorCoreCall {
  HeadRows<X> q, k, v, o, d_o, dq, dk, dv;
  float *lse, *delta;
  int64_t delta_stride;
  const int32_t* sequences;
  int count, H, G, window;
  float scale;
  explicit TensorCoreCall(const AttentionCall& c)
      : q(c.q),
        k(c.k),
        v(c.v),
        o(c.o),
        d_o(c.d_o),
        dq(c.dq),
        dk(c.dk),
        dv(c.dv),
        lse(c.lse),
        delta(static_cast<float*>(c.delta.data)),
        delta_stride(c.delta.stride),
        sequences(c.sequences),
        count(static_cast<int>(c.count)),
        H(static_cast<int>(c.shape.H)),
        G(static_cast<int>(c.shape.H / c.shape.Hkv)),
        window(static_cast<int>(c.shape.window)),
        scale(c.shape.scale) {}
};

// fn(X{}) for the types that tensor cores take.
template <typename Fn>
void with_tensor_core_type(DType dtype, const Fn& fn) {
  if (dtype == DType::BF16) return fn(bf16{});
  check(dtype == DType::F16, "no tensor core attention in {}", name(dtype));
  fn(f16{});
}

// fn(std::integral_constant<int, D>) for the head sizes that are built.
template <typename Fn>
void with_head_size(int64_t D, const Fn& fn) {
  switch (D) {
    case 64:
      return fn(std::integral_constant<int, 64>{});
    case 80:
      return fn(std::integral_constant<int, 80>{});
    case 96:
      return fn(std::integral_constant<int, 96>{});
    case 128:
      return fn(std::integral_constant<int, 128>{});
    case 256:
      return fn(std::integral_constant<int, 256>{});
    default:
      fail(ErrorCode::Internal, "no tensor core attention for heads of {}", D);
  }
}

// What a block may have of shared memory on sm_86, sm_89 and sm_120, the least from sm_80 on, and on
// sm_75 (CUDA C++ programming guide, "Compute Capabilities").
inline constexpr int kMostSharedBytes = 99 << 10, kMostOfTuring = 64 << 10;

// One block per 64 rows of a sequence and head (and z). Shape<D, turing>: how a kernel cuts them.
template <template <int, bool> class Shape, int D, typename X, typename Kernel>
void launch_attention(cudaStream_t stream, const char* name, Kernel kernel, int64_t heads,
                      int64_t rows, int64_t z, const AttentionCall& call) {
  constexpr int kBytes = Shape<D, false>::kSharedBytes, kOfTuring = Shape<D, true>::kSharedBytes;
  static_assert(kBytes <= kMostSharedBytes);
  static_assert(kOfTuring <= kMostOfTuring || D > kLargestOfTuring);
  check(!call.turing || (D <= kLargestOfTuring && std::is_same_v<X, f16>),
        "{} of {} with heads of {} has no kernel of sm_75", name, lema::name(call.q.dtype), D);
  const int shared_bytes = call.turing ? kOfTuring : kBytes;
  const int64_t tiles = tile_bound(rows, call.count, kAttentionRows);
  check(tiles <= 65535, "attention: {} rows in a call", rows);
  cuda_check(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
      "giving {} {} bytes of shared memory", name, shared_bytes);
  const dim3 grid(static_cast<unsigned>(heads), static_cast<unsigned>(tiles),
                  static_cast<unsigned>(z));
  kernel<<<grid, kAttentionThreads, shared_bytes, stream>>>(TensorCoreCall<X>(call));
  check_launch(name);
}

}  // namespace lema::cuda
