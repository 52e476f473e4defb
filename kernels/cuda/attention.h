// Causal attention of packed sequences on the GPU, memory O(N); contract in Ops::attention and
// Ops::attention_backward. Called by CudaOps, shapes checked before. Ref: arXiv:2307.08691.
//
// bf16 and f16 with head sizes 64, 80, 96, 128 and 256 run on tensor cores (attention_forward.cu,
// attention_backward.cu), on sm_75 f16 with all of these but 256: probabilities and their gradients
// are rounded to 16 bits where they enter a product, all sums are f32. All else, head sizes to 256,
// runs in f32 (attention_plain.cu).
#pragma once

#include "cuda/cuda_device.h"
#include "ops.h"

namespace lema::cuda {

// LIMIT: of the plain kernels, whose sums are in registers.
inline constexpr int64_t kLargestHead = 256;
// LIMIT: of shared memory of sm_75.
inline constexpr int64_t kLargestOfTuring = 128;

void attention(const CudaDevice& device, MatrixView o, TensorView lse, MatrixView q, MatrixView k,
               MatrixView v, TensorView sequences, const AttentionShape& shape);
// delta (Nq, H) f32: scratch, becomes the sum of d_o o per row and head.
void attention_backward(const CudaDevice& device, MatrixView dq, MatrixView dk, MatrixView dv,
                        MatrixView d_o, MatrixView o, TensorView lse, MatrixView q, MatrixView k,
                        MatrixView v, TensorView sequences, const AttentionShape& shape,
                        MatrixView delta);

// One call, as the kernels get it. Null where an argument is not part of the call.
struct AttentionCall {
  MatrixView q, k, v, o, d_o, dq, dk, dv;
  float* lse = nullptr;
  MatrixView delta;
  const int32_t* sequences = nullptr;
  int64_t count = 0;  // sequences
  AttentionShape shape;
  bool turing = false;  // the kernels are of sm_75
};

void plain_attention(cudaStream_t stream, const AttentionCall& call);
void plain_attention_backward(cudaStream_t stream, const AttentionCall& call);
void tensor_core_attention(cudaStream_t stream, const AttentionCall& call);
void tensor_core_attention_backward(cudaStream_t stream, const AttentionCall& call);

}  // namespace lema::cuda
