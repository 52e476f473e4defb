// Check, then submit: the whole CUDA backend at a glance.
#include "cuda/cuda_ops.h"

#include "checks.h"
#include "cuda/adamw.h"
#include "cuda/attention.h"
#include "cuda/elementwise.h"
#include "cuda/head.h"
#include "cuda/linear.h"
#include "cuda/lora_norm.h"
#include "cuda/norm.h"

namespace lema {
namespace cuda {

CudaOps::CudaOps(CudaDevice& device, const OpsLimits& limits)
    : limits_(limits),
      device_(device),
      stream_(device.stream(Queue::Compute)),
      gemm_(device),
      workspace_(device, limits),
      engine_{stream_, gemm_, workspace_} {}

int64_t CudaOps::scratch_bytes() const { return gemm_.bytes() + workspace_.bytes(); }

void CudaOps::linear(MatrixView y, MatrixView x, std::span<const LinearPart> parts, Write write) {
  checks::linear(y, x, parts, limits_);
  cuda::linear(engine_, y, x, parts, write);
}

void CudaOps::linear_backward(MatrixView dx, MatrixView dy, MatrixView x,
                              std::span<const LinearPart> parts, Write write) {
  checks::linear_backward(dx, dy, x, parts, limits_);
  cuda::linear_backward(engine_, dx, dy, x, parts, write);
}

void CudaOps::lora_norm(TensorView norm, const LinearPart& part) {
  checks::lora_norm(norm, part, limits_);
  cuda::lora_norm(engine_, norm, part);
}

void CudaOps::rmsnorm(MatrixView y, MatrixView x, TensorView weight, float eps) {
  checks::rmsnorm(y, x, weight);
  cuda::rmsnorm(stream_, y, x, weight, eps);
}

void CudaOps::rmsnorm_backward(MatrixView dx, MatrixView dy, MatrixView x, TensorView weight,
                               float eps, Write write) {
  checks::rmsnorm_backward(dx, dy, x, weight);
  cuda::rmsnorm_backward(stream_, dx, dy, x, weight, eps, write);
}

void CudaOps::layernorm(MatrixView y, MatrixView x, TensorView weight, TensorView bias, float eps) {
  checks::layernorm(y, x, weight, bias);
  cuda::layernorm(stream_, y, x, weight, bias, eps);
}

void CudaOps::layernorm_backward(MatrixView dx, MatrixView dy, MatrixView x, TensorView weight,
                                 float eps, Write write) {
  checks::layernorm_backward(dx, dy, x, weight);
  cuda::layernorm_backward(stream_, dx, dy, x, weight, eps, write);
}

void CudaOps::rope(MatrixView x, TensorView positions, TensorView table, int64_t head_size,
                   bool inverse) {
  checks::rope(x, positions, table, head_size);
  cuda::rope(stream_, x, positions, table, head_size, inverse);
}

void CudaOps::attention(MatrixView o, TensorView lse, MatrixView q, MatrixView k, MatrixView v,
                        TensorView sequences, const AttentionShape& shape) {
  checks::attention(o, lse, q, k, v, sequences, shape, limits_);
  cuda::attention(device_, o, lse, q, k, v, sequences, shape);
}

void CudaOps::attention_backward(MatrixView dq, MatrixView dk, MatrixView dv, MatrixView d_o,
                                 MatrixView o, TensorView lse, MatrixView q, MatrixView k,
                                 MatrixView v, TensorView sequences, const AttentionShape& shape) {
  checks::attention_backward(dq, dk, dv, d_o, o, lse, q, k, v, sequences, shape, limits_);
  const Workspace::Scope scope(workspace_);
  const MatrixView delta = workspace_.take(DType::F32, q.rows, shape.H);
  cuda::attention_backward(device_, dq, dk, dv, d_o, o, lse, q, k, v, sequences, shape, delta);
}

void CudaOps::swiglu(MatrixView y, MatrixView gate_up) {
  checks::swiglu(y, gate_up);
  cuda::swiglu(stream_, y, gate_up);
}

void CudaOps::swiglu_backward(MatrixView d_gate_up, MatrixView dy, MatrixView gate_up) {
  checks::swiglu_backward(d_gate_up, dy, gate_up);
  cuda::swiglu_backward(stream_, d_gate_up, dy, gate_up);
}

void CudaOps::gelu(MatrixView y, MatrixView x) {
  checks::gelu(y, x);
  cuda::gelu(stream_, y, x);
}

void CudaOps::gelu_backward(MatrixView dx, MatrixView dy, MatrixView x) {
  checks::gelu_backward(dx, dy, x);
  cuda::gelu_backward(stream_, dx, dy, x);
}

void CudaOps::add(MatrixView y, MatrixView a, MatrixView b) {
  checks::add(y, a, b);
  cuda::add(stream_, y, a, b);
}

void CudaOps::embedding(MatrixView y, TensorView ids, TensorView table, Write write) {
  checks::embedding(y, ids, table);
  cuda::embedding(stream_, y, ids, table, write);
}

void CudaOps::embedding_backward(TensorView d_table, TensorView ids, MatrixView dy) {
  checks::embedding_backward(d_table, ids, dy);
  cuda::embedding_backward(stream_, d_table, ids, dy);
}

void CudaOps::scatter_rows(MatrixView y, MatrixView x, TensorView rows) {
  checks::scatter_rows(y, x, rows);
  cuda::scatter_rows(stream_, y, x, rows);
}

void CudaOps::head_begin(const HeadState& state) {
  checks::head_begin(state, limits_);
  cuda::head_begin(engine_, state);
}

void CudaOps::head_chunk(const HeadState& state, MatrixView x, TensorView weight, int64_t v_begin,
                         TensorView targets) {
  checks::head_chunk(state, x, weight, v_begin, targets, limits_);
  cuda::head_chunk(engine_, state, x, weight, v_begin, targets);
}

void CudaOps::head_finish(TensorView loss, MatrixView dx, const HeadState& state,
                          float grad_scale) {
  checks::head_finish(loss, dx, state);
  cuda::head_finish(engine_, loss, dx, state, grad_scale);
}

void CudaOps::head_weight_backward(TensorView d_weight, const HeadState& state, MatrixView x,
                                   TensorView weight, int64_t v_begin, TensorView targets,
                                   float grad_scale) {
  checks::head_weight_backward(d_weight, state, x, weight, v_begin, targets, limits_);
  cuda::head_weight_backward(engine_, d_weight, state, x, weight, v_begin, targets, grad_scale);
}

void CudaOps::squared_norm(TensorView out, TensorView x) {
  checks::squared_norm(out, x);
  const Workspace::Scope scope(workspace_);
  const MatrixView parts = workspace_.take(DType::F32, 1, 2 * kNormParts);  // doubles
  cuda::squared_norm(stream_, out, x, static_cast<double*>(parts.data));
}

void CudaOps::adamw(TensorView param, TensorView grad, TensorView moment1, TensorView moment2,
                    TensorView squared_norm, const AdamWStep& step) {
  checks::adamw(param, grad, moment1, moment2, squared_norm, step);
  cuda::adamw(stream_, param, grad, moment1, moment2, squared_norm, step);
}

void CudaOps::fill(TensorView x, float value) {
  checks::fill(x);
  cuda::fill(stream_, x, value);
}

}  // namespace cuda

std::unique_ptr<Ops> make_cuda_ops(Device& device, const OpsLimits& limits) {
  auto* gpu = dynamic_cast<cuda::CudaDevice*>(&device);
  check(gpu != nullptr, "CUDA kernels for device {}", device.name());
  return std::make_unique<cuda::CudaOps>(*gpu, limits);
}

int64_t cuda_scratch_bytes(const OpsLimits& limits) {
  return cuda::Gemm::kWorkspaceBytes + cuda::Workspace::bytes_for(limits);
}

}  // namespace lema
