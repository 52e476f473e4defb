// Linear cross-entropy on the GPU; contract in Ops. Called by CudaOps, shapes checked before.
#pragma once

#include "cuda/adapters.h"

namespace lema::cuda {

void head_begin(const Engine& engine, const HeadState& state);
void head_chunk(const Engine& engine, const HeadState& state, MatrixView x, TensorView weight,
                int64_t v_begin, TensorView targets);
void head_finish(const Engine& engine, TensorView loss, MatrixView dx, const HeadState& state,
                 float grad_scale);
void head_weight_backward(const Engine& engine, TensorView d_weight, const HeadState& state,
                          MatrixView x, TensorView weight, int64_t v_begin, TensorView targets,
                          float grad_scale);

// What p, at most 1, is multiplied by in storage: f16 has no number between 0 and 2^-24, and a
// probability of 2^-30 counts where the model is sure of the target.
inline float unit(DType X) { return X == DType::F16 ? 0x1p15f : 1.0f; }

// The kernels between the GEMMs, for vocabulary rows [v_begin, v_begin + cols).
// logits (N, v) f32 become p (N, v) X = unit(X) exp(logit - running maximum), the target's 0; f32 p
// in place of the logits (p.data == logits.data). state follows: max, sum, target_logit; acc is
// rescaled.
void softmax_chunk(cudaStream_t stream, const HeadState& state, MatrixView p, MatrixView logits,
                   int64_t v_begin, TensorView targets);
// The same logits become p (N, v) X = unit(X) (softmax - [target]), once every chunk has passed
// softmax_chunk.
void logit_gradients(cudaStream_t stream, const HeadState& state, MatrixView p, MatrixView logits,
                     int64_t v_begin, TensorView targets);
// target_rows[n] = the row of weight (v, C), of any dtype, that is n's target, if it is there.
void copy_targets(cudaStream_t stream, const HeadState& state, TensorView weight, int64_t v_begin,
                  TensorView targets);

}  // namespace lema::cuda
