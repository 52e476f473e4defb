// CpuOps: the CPU backend of Ops. Each method checks its arguments and calls the typed function of
// kernels/cpu/<op>.h; the work is done when it returns. Made by make_cpu_ops.
#pragma once

#include "core/thread_pool.h"
#include "cpu/host_memory.h"
#include "cpu/workspace.h"
#include "ops.h"

namespace lema::cpu {

// Threads: one caller at a time.
class CpuOps final : public Ops {
 public:
  CpuOps(int threads, const OpsLimits& limits);
  int64_t scratch_bytes() const override;

  void linear(MatrixView y, MatrixView x, std::span<const LinearPart> parts, Write write) override;
  void linear_backward(MatrixView dx, MatrixView dy, MatrixView x,
                       std::span<const LinearPart> parts, Write write) override;
  void lora_norm(TensorView norm, const LinearPart& part) override;
  void rmsnorm(MatrixView y, MatrixView x, TensorView weight, float eps) override;
  void rmsnorm_backward(MatrixView dx, MatrixView dy, MatrixView x, TensorView weight, float eps,
                        Write write) override;
  void layernorm(MatrixView y, MatrixView x, TensorView weight, TensorView bias,
                 float eps) override;
  void layernorm_backward(MatrixView dx, MatrixView dy, MatrixView x, TensorView weight, float eps,
                          Write write) override;
  void rope(MatrixView x, TensorView positions, TensorView table, int64_t head_size,
            bool inverse) override;
  void attention(MatrixView o, TensorView lse, MatrixView q, MatrixView k, MatrixView v,
                 TensorView sequences, const AttentionShape& shape) override;
  void attention_backward(MatrixView dq, MatrixView dk, MatrixView dv, MatrixView d_o, MatrixView o,
                          TensorView lse, MatrixView q, MatrixView k, MatrixView v,
                          TensorView sequences, const AttentionShape& shape) override;
  void swiglu(MatrixView y, MatrixView gate_up) override;
  void swiglu_backward(MatrixView d_gate_up, MatrixView dy, MatrixView gate_up) override;
  void gelu(MatrixView y, MatrixView x) override;
  void gelu_backward(MatrixView dx, MatrixView dy, MatrixView x) override;
  void add(MatrixView y, MatrixView a, MatrixView b) override;
  void embedding(MatrixView y, TensorView ids, TensorView table, Write write) override;
  void embedding_backward(TensorView d_table, TensorView ids, MatrixView dy) override;
  void scatter_rows(MatrixView y, MatrixView x, TensorView rows) override;
  void head_begin(const HeadState& state) override;
  void head_chunk(const HeadState& state, MatrixView x, TensorView weight, int64_t v_begin,
                  TensorView targets) override;
  void head_finish(TensorView loss, MatrixView dx, const HeadState& state,
                   float grad_scale) override;
  void head_weight_backward(TensorView d_weight, const HeadState& state, MatrixView x,
                            TensorView weight, int64_t v_begin, TensorView targets,
                            float grad_scale) override;
  void squared_norm(TensorView out, TensorView x) override;
  void adamw(TensorView param, TensorView grad, TensorView moment1, TensorView moment2,
             TensorView squared_norm, const AdamWStep& step) override;
  void fill(TensorView x, float value) override;

 private:
  std::span<float> attention_scratch() const;

  OpsLimits limits_;
  ThreadPool pool_;
  Workspace workspace_;
  HostMemory attention_memory_;
};

}  // namespace lema::cpu
