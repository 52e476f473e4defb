// Which kernels a call goes to.
#include "cuda/attention.h"

#include "core/error.h"

namespace lema::cuda {
namespace {

bool on_tensor_cores(const AttentionCall& call) {
  const int64_t D = call.shape.D;
  check(D <= kLargestHead, "attention: heads of {} elements, {} at most on CUDA", D, kLargestHead);
  const bool is_built = D == 64 || D == 80 || D == 96 || D == 128 || D == 256;
  const bool is_type = call.turing ? call.q.dtype == DType::F16 && D <= kLargestOfTuring
                                   : call.q.dtype != DType::F32;
  return is_built && is_type;
}

}  // namespace

void attention(const CudaDevice& device, MatrixView o, TensorView lse, MatrixView q, MatrixView k,
               MatrixView v, TensorView sequences, const AttentionShape& shape) {
  AttentionCall call;
  call.q = q, call.k = k, call.v = v, call.o = o;
  call.lse = lse.as<float>();
  call.sequences = static_cast<const int32_t*>(sequences.data);
  call.count = sequences.shape[0];
  call.shape = shape;
  call.turing = device.kernel_architecture() < 80;
  if (q.rows == 0 || call.count == 0) return;
  const cudaStream_t stream = device.stream(Queue::Compute);
  if (on_tensor_cores(call))
    tensor_core_attention(stream, call);
  else
    plain_attention(stream, call);
}

void attention_backward(const CudaDevice& device, MatrixView dq, MatrixView dk, MatrixView dv,
                        MatrixView d_o, MatrixView o, TensorView lse, MatrixView q, MatrixView k,
                        MatrixView v, TensorView sequences, const AttentionShape& shape,
                        MatrixView delta) {
  AttentionCall call;
  call.q = q, call.k = k, call.v = v, call.o = o;
  call.d_o = d_o, call.dq = dq, call.dk = dk, call.dv = dv;
  call.lse = lse.as<float>();
  call.delta = delta;
  call.sequences = static_cast<const int32_t*>(sequences.data);
  call.count = sequences.shape[0];
  call.shape = shape;
  call.turing = device.kernel_architecture() < 80;
  if (q.rows == 0 || call.count == 0) return;
  const cudaStream_t stream = device.stream(Queue::Compute);
  if (on_tensor_cores(call))
    tensor_core_attention_backward(stream, call);
  else
    plain_attention_backward(stream, call);
}

}  // namespace lema::cuda
