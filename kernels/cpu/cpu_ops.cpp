// Check, then call: the whole CPU backend at a glance.
#include "cpu/cpu_ops.h"

#include "checks.h"
#include "cpu/adamw.h"
#include "cpu/add.h"
#include "cpu/attention.h"
#include "cpu/embedding.h"
#include "cpu/gelu.h"
#include "cpu/gemm_bf16.h"
#include "cpu/head.h"
#include "cpu/layernorm.h"
#include "cpu/linear.h"
#include "cpu/lora_norm.h"
#include "cpu/rmsnorm.h"
#include "cpu/rope.h"
#include "cpu/scatter_rows.h"
#include "cpu/swiglu.h"

namespace lema {
namespace cpu {
namespace {

int64_t attention_bytes(const OpsLimits& limits, int threads) {
  return attention_scratch_floats(limits, threads) * static_cast<int64_t>(sizeof(float));
}

int thread_count(int threads) { return threads > 0 ? threads : available_cpus(); }

}  // namespace

CpuOps::CpuOps(int threads, const OpsLimits& limits)
    : limits_(limits),
      pool_(thread_count(threads)),
      workspace_(limits, pool_.threads()),
      attention_memory_(attention_bytes(limits, pool_.threads()), "CPU attention's scratch") {}

int64_t CpuOps::scratch_bytes() const { return workspace_.bytes() + attention_memory_.bytes(); }

std::span<float> CpuOps::attention_scratch() const {
  return {attention_memory_.floats(),
          static_cast<size_t>(attention_memory_.bytes()) / sizeof(float)};
}

void CpuOps::linear(MatrixView y, MatrixView x, std::span<const LinearPart> parts, Write write) {
  checks::linear(y, x, parts, limits_);
  cpu::linear(pool_, workspace_, y, x, parts, write);
}

void CpuOps::linear_backward(MatrixView dx, MatrixView dy, MatrixView x,
                             std::span<const LinearPart> parts, Write write) {
  checks::linear_backward(dx, dy, x, parts, limits_);
  cpu::linear_backward(pool_, workspace_, dx, dy, x, parts, write);
}

void CpuOps::lora_norm(TensorView norm, const LinearPart& part) {
  checks::lora_norm(norm, part, limits_);
  cpu::lora_norm(pool_, workspace_, norm, part);
}

void CpuOps::rmsnorm(MatrixView y, MatrixView x, TensorView weight, float eps) {
  checks::rmsnorm(y, x, weight);
  cpu::rmsnorm(pool_, y, x, weight, eps);
}

void CpuOps::rmsnorm_backward(MatrixView dx, MatrixView dy, MatrixView x, TensorView weight,
                              float eps, Write write) {
  checks::rmsnorm_backward(dx, dy, x, weight);
  cpu::rmsnorm_backward(pool_, dx, dy, x, weight, eps, write);
}

void CpuOps::layernorm(MatrixView y, MatrixView x, TensorView weight, TensorView bias, float eps) {
  checks::layernorm(y, x, weight, bias);
  cpu::layernorm(pool_, y, x, weight, bias, eps);
}

void CpuOps::layernorm_backward(MatrixView dx, MatrixView dy, MatrixView x, TensorView weight,
                                float eps, Write write) {
  checks::layernorm_backward(dx, dy, x, weight);
  cpu::layernorm_backward(pool_, dx, dy, x, weight, eps, write);
}

void CpuOps::rope(MatrixView x, TensorView positions, TensorView table, int64_t head_size,
                  bool inverse) {
  checks::rope(x, positions, table, head_size);
  cpu::rope(pool_, x, positions, table, head_size, inverse);
}

void CpuOps::attention(MatrixView o, TensorView lse, MatrixView q, MatrixView k, MatrixView v,
                       TensorView sequences, const AttentionShape& shape) {
  checks::attention(o, lse, q, k, v, sequences, shape, limits_);
  cpu::attention(pool_, o, lse, q, k, v, sequences, shape, attention_scratch());
}

void CpuOps::attention_backward(MatrixView dq, MatrixView dk, MatrixView dv, MatrixView d_o,
                                MatrixView o, TensorView lse, MatrixView q, MatrixView k,
                                MatrixView v, TensorView sequences, const AttentionShape& shape) {
  checks::attention_backward(dq, dk, dv, d_o, o, lse, q, k, v, sequences, shape, limits_);
  cpu::attention_backward(pool_, dq, dk, dv, d_o, o, lse, q, k, v, sequences, shape,
                          attention_scratch());
}

void CpuOps::swiglu(MatrixView y, MatrixView gate_up) {
  checks::swiglu(y, gate_up);
  cpu::swiglu(pool_, y, gate_up);
}

void CpuOps::swiglu_backward(MatrixView d_gate_up, MatrixView dy, MatrixView gate_up) {
  checks::swiglu_backward(d_gate_up, dy, gate_up);
  cpu::swiglu_backward(pool_, d_gate_up, dy, gate_up);
}

void CpuOps::gelu(MatrixView y, MatrixView x) {
  checks::gelu(y, x);
  cpu::gelu(pool_, y, x);
}

void CpuOps::gelu_backward(MatrixView dx, MatrixView dy, MatrixView x) {
  checks::gelu_backward(dx, dy, x);
  cpu::gelu_backward(pool_, dx, dy, x);
}

void CpuOps::add(MatrixView y, MatrixView a, MatrixView b) {
  checks::add(y, a, b);
  cpu::add(pool_, y, a, b);
}

void CpuOps::embedding(MatrixView y, TensorView ids, TensorView table, Write write) {
  checks::embedding(y, ids, table);
  cpu::embedding(pool_, y, ids, table, write);
}

void CpuOps::embedding_backward(TensorView d_table, TensorView ids, MatrixView dy) {
  checks::embedding_backward(d_table, ids, dy);
  cpu::embedding_backward(pool_, d_table, ids, dy);
}

void CpuOps::scatter_rows(MatrixView y, MatrixView x, TensorView rows) {
  checks::scatter_rows(y, x, rows);
  cpu::scatter_rows(pool_, y, x, rows);
}

void CpuOps::head_begin(const HeadState& state) {
  checks::head_begin(state, limits_);
  cpu::head_begin(pool_, state);
}

void CpuOps::head_chunk(const HeadState& state, MatrixView x, TensorView weight, int64_t v_begin,
                        TensorView targets) {
  checks::head_chunk(state, x, weight, v_begin, targets, limits_);
  cpu::head_chunk(pool_, workspace_, state, x, weight, v_begin, targets);
}

void CpuOps::head_finish(TensorView loss, MatrixView dx, const HeadState& state, float grad_scale) {
  checks::head_finish(loss, dx, state);
  cpu::head_finish(pool_, loss, dx, state, grad_scale);
}

void CpuOps::head_weight_backward(TensorView d_weight, const HeadState& state, MatrixView x,
                                  TensorView weight, int64_t v_begin, TensorView targets,
                                  float grad_scale) {
  checks::head_weight_backward(d_weight, state, x, weight, v_begin, targets, limits_);
  cpu::head_weight_backward(pool_, workspace_, d_weight, state, x, weight, v_begin, targets,
                            grad_scale);
}

void CpuOps::squared_norm(TensorView out, TensorView x) {
  checks::squared_norm(out, x);
  cpu::squared_norm(pool_, out, x);
}

void CpuOps::adamw(TensorView param, TensorView grad, TensorView moment1, TensorView moment2,
                   TensorView squared_norm, const AdamWStep& step) {
  checks::adamw(param, grad, moment1, moment2, squared_norm, step);
  cpu::adamw(pool_, param, grad, moment1, moment2, squared_norm, step);
}

void CpuOps::fill(TensorView x, float value) {
  checks::fill(x);
  cpu::fill(pool_, x, value);
}

}  // namespace cpu

std::unique_ptr<Ops> make_cpu_ops(int threads, const OpsLimits& limits) {
  check(threads >= 0, "{} CPU threads", threads);
  return std::make_unique<cpu::CpuOps>(threads, limits);
}

int64_t cpu_scratch_bytes(int threads, const OpsLimits& limits) {
  const int count = cpu::thread_count(threads);
  return cpu::Workspace::bytes_for(limits, count) + cpu::attention_bytes(limits, count);
}

bool cpu_prefers_bf16() { return cpu::bf16_products() != cpu::Bf16Products::Widened; }

}  // namespace lema
