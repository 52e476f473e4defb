// Shape and dtype checks of every Ops method, shared by the backends: one function per method with
// its arguments. Each throws an Internal error that names the operation, the argument, what was
// found and what was expected. Aliasing and the values of ids, targets and positions are the
// caller's promise.
#pragma once

#include "ops.h"

namespace lema::checks {

void linear(const MatrixView& y, const MatrixView& x, std::span<const LinearPart> parts,
            const OpsLimits& limits);
void linear_backward(const MatrixView& dx, const MatrixView& dy, const MatrixView& x,
                     std::span<const LinearPart> parts, const OpsLimits& limits);
void lora_norm(const TensorView& norm, const LinearPart& part, const OpsLimits& limits);
void rmsnorm(const MatrixView& y, const MatrixView& x, const TensorView& weight);
void rmsnorm_backward(const MatrixView& dx, const MatrixView& dy, const MatrixView& x,
                      const TensorView& weight);
void layernorm(const MatrixView& y, const MatrixView& x, const TensorView& weight,
               const TensorView& bias);
void layernorm_backward(const MatrixView& dx, const MatrixView& dy, const MatrixView& x,
                        const TensorView& weight);
void rope(const MatrixView& x, const TensorView& positions, const TensorView& table,
          int64_t head_size);
void attention(const MatrixView& o, const TensorView& lse, const MatrixView& q, const MatrixView& k,
               const MatrixView& v, const TensorView& sequences, const AttentionShape& shape,
               const OpsLimits& limits);
void attention_backward(const MatrixView& dq, const MatrixView& dk, const MatrixView& dv,
                        const MatrixView& d_o, const MatrixView& o, const TensorView& lse,
                        const MatrixView& q, const MatrixView& k, const MatrixView& v,
                        const TensorView& sequences, const AttentionShape& shape,
                        const OpsLimits& limits);
void swiglu(const MatrixView& y, const MatrixView& gate_up);
void swiglu_backward(const MatrixView& d_gate_up, const MatrixView& dy, const MatrixView& gate_up);
void gelu(const MatrixView& y, const MatrixView& x);
void gelu_backward(const MatrixView& dx, const MatrixView& dy, const MatrixView& x);
void add(const MatrixView& y, const MatrixView& a, const MatrixView& b);
void embedding(const MatrixView& y, const TensorView& ids, const TensorView& table);
void embedding_backward(const TensorView& d_table, const TensorView& ids, const MatrixView& dy);
void scatter_rows(const MatrixView& y, const MatrixView& x, const TensorView& rows);
void head_begin(const HeadState& state, const OpsLimits& limits);
void head_chunk(const HeadState& state, const MatrixView& x, const TensorView& weight,
                int64_t v_begin, const TensorView& targets, const OpsLimits& limits);
void head_finish(const TensorView& loss, const MatrixView& dx, const HeadState& state);
void head_weight_backward(const TensorView& d_weight, const HeadState& state, const MatrixView& x,
                          const TensorView& weight, int64_t v_begin, const TensorView& targets,
                          const OpsLimits& limits);
void squared_norm(const TensorView& out, const TensorView& x);
void adamw(const TensorView& param, const TensorView& grad, const TensorView& moment1,
           const TensorView& moment2, const TensorView& squared_norm, const AdamWStep& step);
void fill(const TensorView& x);

}  // namespace lema::checks
