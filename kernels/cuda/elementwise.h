// The token-wise kernels without sums across a row; contracts in Ops, under the same names. Called
// by CudaOps, shapes checked before. All asynchronous on `stream`.
#pragma once

#include <cuda_runtime_api.h>

#include "ops.h"

namespace lema::cuda {

void add(cudaStream_t stream, MatrixView y, MatrixView a, MatrixView b);
void swiglu(cudaStream_t stream, MatrixView y, MatrixView gate_up);
void swiglu_backward(cudaStream_t stream, MatrixView d_gate_up, MatrixView dy, MatrixView gate_up);
void gelu(cudaStream_t stream, MatrixView y, MatrixView x);
void gelu_backward(cudaStream_t stream, MatrixView dx, MatrixView dy, MatrixView x);
void rope(cudaStream_t stream, MatrixView x, TensorView positions, TensorView table,
          int64_t head_size, bool inverse);
void embedding(cudaStream_t stream, MatrixView y, TensorView ids, TensorView table, Write write);
void embedding_backward(cudaStream_t stream, TensorView d_table, TensorView ids, MatrixView dy);
void scatter_rows(cudaStream_t stream, MatrixView y, MatrixView x, TensorView rows);
void fill(cudaStream_t stream, TensorView x, float value);
// to (N, C) = from (N, C), rounded to the target's dtype once; both F32, BF16 or F16. Columns of
// `to` past from.cols become 0.
void convert(cudaStream_t stream, MatrixView to, MatrixView from);

// to (N, C) X = factor * from (N, C) f32.
void scale(cudaStream_t stream, MatrixView to, MatrixView from, float factor);
// y (N, C) X (=|+=) x (N, C) f32.
void add_f32(cudaStream_t stream, MatrixView y, MatrixView x, Write write);

}  // namespace lema::cuda
