// Ops: the whole instruction set of a model. Each method checks shapes and dtypes (checks.h,
// Internal error) and submits to the device's compute queue; nothing here allocates after
// construction.
//
// Conventions. X is the activation dtype, F32 or BF16, on a GPU F16 too; arithmetic and reductions
// are f32 with a fixed order, and rounding to X happens once, when an output is stored (units that
// multiply 16-bit numbers take attention's probabilities and their gradients rounded to X as well,
// but for a few rows). Outputs come first, then inputs, then what forward saved, then scalars.
// `d` + name is dLoss/dname with the shape of name. Letters: N rows (tokens), C width, F
// feed-forward width, H query heads, Hkv key-value heads, D head size, V vocabulary, R rank, I and
// O inner and outer width of a linear.
#pragma once

#include <bit>
#include <cstdint>
#include <memory>
#include <span>

#include "core/tensor.h"
#include "device.h"

namespace lema {

enum class Write { Overwrite, Accumulate };

// A matrix of activations whose rows may lie apart: element (n, c) is data[n * stride + c].
struct MatrixView {
  void* data = nullptr;
  DType dtype = DType::F32;
  int64_t rows = 0, cols = 0, stride = 0;

  MatrixView() = default;
  MatrixView(void* data_, DType dtype_, int64_t rows_, int64_t cols_, int64_t stride_)
      : data(data_), dtype(dtype_), rows(rows_), cols(cols_), stride(stride_) {}
  MatrixView(void* data_, DType dtype_, int64_t rows_, int64_t cols_)
      : MatrixView(data_, dtype_, rows_, cols_, cols_) {}

  explicit operator bool() const { return data != nullptr; }
  MatrixView row_range(int64_t begin, int64_t end) const {
    return {static_cast<char*>(data) + begin * stride * element_bytes(dtype), dtype, end - begin,
            cols, stride};
  }
  MatrixView col_range(int64_t begin, int64_t end) const {
    return {static_cast<char*>(data) + begin * element_bytes(dtype), dtype, rows, end - begin,
            stride};
  }
};

// The low-rank part of a linear: y += scale * (drop(x) A^T) B^T. Ref: arXiv:2106.09685.
// A and B are rounded to X where they enter a product with an X operand; h = drop(x) A^T is kept in
// f32 until then.
//
// With a magnitude (DoRA, arXiv:2402.09353) the rows of W + scale B A have the directions alone:
// with g = magnitude / norm and z = drop(x) (W + scale B A)^T, y = g o z + (x - drop(x)) W^T +
// bias. The norm counts as a constant in backward (the paper's section 4.3). Ref: peft
// DoraLinearLayer.
struct LoraView {
  TensorView a;   // (R, I) f32
  TensorView b;   // (O, R) f32
  TensorView da;  // (R, I) f32, accumulated by linear_backward; null in inference
  TensorView db;  // (O, R) f32
  TensorView magnitude;    // (O) f32, or null: no DoRA
  TensorView norm;         // (O) f32, of lora_norm, where there is a magnitude
  TensorView d_magnitude;  // (O) f32, accumulated as da is
  float scale = 0;
  // Inverted dropout on x: element (n, i) is kept iff
  //   uniform(philox(dropout_key, RngStream::Dropout, ((first_row + n) * I + i) / 4)[((first_row +
  //   n) * I + i) % 4]) >= dropout
  // and then divided by 1 - dropout.
  float dropout = 0;
  uint64_t dropout_key = 0;
  int64_t first_row = 0;  // of this call's row 0, in the numbering that forward and recompute share
};

// One matrix of a linear, with its bias and adapter. Weight dtype F32, BF16 or F16; where it is not
// X the weight is rounded to X for the product.
struct LinearPart {
  TensorView weight;  // (O, I); (I, O) when `transposed` (GPT-2's Conv1D)
  bool transposed = false;
  TensorView bias;  // (O) or null, F32, BF16 or F16
  const LoraView* lora = nullptr;
  int64_t out() const { return weight.shape[transposed ? 1 : 0]; }
  int64_t in() const { return weight.shape[transposed ? 0 : 1]; }
};

// True where the weights of `next` begin where those of `part` end: one matrix of more outputs.
inline bool lie_together(const LinearPart& part, const LinearPart& next) {
  return !part.transposed && !next.transposed && part.weight.dtype == next.weight.dtype &&
         static_cast<const std::byte*>(part.weight.data) + part.weight.bytes() == next.weight.data;
}

// Heads of an attention call.
struct AttentionShape {
  int64_t H = 0, Hkv = 0, D = 0;
  float scale = 0;     // on the scores, 1 / sqrt(D) as a rule
  int64_t window = 0;  // a query sees so many keys at most, its own position's the last; 0: all
};

// Running state of the loss over vocabulary chunks, per row; all f32 but target_rows.
struct HeadState {
  TensorView max;           // (N) largest logit so far
  TensorView sum;           // (N) sum of exp(logit - max), the target left out
  TensorView target_logit;  // (N)
  // (N, C) sum of exp(logit - max) * weight row, the target left out; null when no gradient is
  // wanted
  TensorView acc;
  TensorView target_rows;  // (N, C) X: weight row of each target; null when acc is
};

struct AdamWStep {
  float lr = 0, beta1 = 0.9f, beta2 = 0.999f, eps = 1e-8f, weight_decay = 0;
  int64_t step = 1;      // 1 for the first update, for the bias corrections
  float grad_scale = 1;  // multiplies the gradient before everything else
  float clip = 0;        // largest global norm of the scaled gradient; 0: off
};

// Upper bounds of the calls to come; scratch is sized by them once.
struct OpsLimits {
  int64_t rows = 0;         // N of any linear, norm or head call
  int64_t tokens = 0;       // rows of any attention call
  int64_t width = 0;        // largest I or O of a linear part
  int64_t rank = 0;         // largest R
  bool dora = false;        // adapters may have magnitudes
  int64_t vocab_chunk = 0;  // rows of a head chunk
  int64_t heads = 0, head_size = 0;
};

// Which kernels a backend runs for a linear or the head may depend on N only through this class of
// it, the next power of two, and for the rest not at all: so one call of each class meets all of
// them (train/warm_up.h).
inline constexpr int64_t row_class(int64_t N) {
  return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(N)));
}

class Ops {
 public:
  virtual ~Ops() = default;
  // Bytes of scratch held, device and host side alike.
  virtual int64_t scratch_bytes() const = 0;

  // y[:, columns of part p] (=|+=) x W_p^T + bias_p + lora_p(x), parts side by side in y in their
  // order. y (N, sum of O) X or F32; x (N, I) X.
  virtual void linear(MatrixView y, MatrixView x, std::span<const LinearPart> parts,
                      Write write) = 0;

  // dx (=|+=) sum over parts of dy_p W_p + the adapters' share; lora.da += and lora.db += where
  // they are not null. dx (N, I) X or null (then only the adapters' gradients); dy (N, sum of O) X;
  // x (N, I) X as forward saw it.
  virtual void linear_backward(MatrixView dx, MatrixView dy, MatrixView x,
                               std::span<const LinearPart> parts, Write write) = 0;

  // norm[o] = |W[o,:] + scale (B A)[o,:]|, the lengths of the rows of the part's adapted weight,
  // all in f32. norm (O) f32; part.lora is not null, its magnitude and norm are not read.
  virtual void lora_norm(TensorView norm, const LinearPart& part) = 0;

  // y[n,:] = x[n,:] * rstd[n] * weight, rstd = 1 / sqrt(mean(x^2) + eps). y, x (N, heads * C) X;
  // weight (C) F32, BF16 or F16; each run of C columns of a row (a head, where queries and keys are
  // normed) is normed on its own. y may alias x. Ref: arXiv:1910.07467 eq. 4; rounding as
  // LlamaRMSNorm: x * rstd is rounded to X before the weight.
  virtual void rmsnorm(MatrixView y, MatrixView x, TensorView weight, float eps) = 0;
  // dx (=|+=) from dy and x (rstd is computed again). dx, dy, x (N, heads * C) X; overwritten dx
  // may alias dy.
  virtual void rmsnorm_backward(MatrixView dx, MatrixView dy, MatrixView x, TensorView weight,
                                float eps, Write write) = 0;

  // y = (x - mean) * rstd * weight + bias, variance over C (biased). Ref: arXiv:1607.06450. As
  // above.
  virtual void layernorm(MatrixView y, MatrixView x, TensorView weight, TensorView bias,
                         float eps) = 0;
  virtual void layernorm_backward(MatrixView dx, MatrixView dy, MatrixView x, TensorView weight,
                                  float eps, Write write) = 0;

  // Rotates pairs (i, i + P/2) of the first P columns of each head in place: the Llama
  // (rotate-half) layout. x (N, heads * D) X; positions (N) I32; table (positions, P) f32: row p is
  // cos(p f_0..), then sin(p f_0..), P/2 of each. `inverse` turns back, which is the backward pass.
  // Ref: arXiv:2104.09864.
  virtual void rope(MatrixView x, TensorView positions, TensorView table, int64_t head_size,
                    bool inverse) = 0;

  // Causal attention of packed sequences, memory O(N): o = softmax(scale q k^T) v per head; query i
  // of a sequence sees keys 0 .. kv_len - q_len + i, the last `window` of them where there is one.
  // Query head h reads key-value head h / (H / Hkv). o, q (Nq, H*D) X; k, v (Nkv, Hkv*D) X; lse
  // (Nq, H) f32 or null: log of the sum of exp of the scaled scores. sequences (S, 4) I32: q_begin,
  // q_len, kv_begin, kv_len, in rows. Ref: arXiv:2307.08691.
  virtual void attention(MatrixView o, TensorView lse, MatrixView q, MatrixView k, MatrixView v,
                         TensorView sequences, const AttentionShape& shape) = 0;
  // dq, dk, dv overwritten, shapes of q, k, v; q_len = kv_len for every sequence. Deterministic.
  virtual void attention_backward(MatrixView dq, MatrixView dk, MatrixView dv, MatrixView d_o,
                                  MatrixView o, TensorView lse, MatrixView q, MatrixView k,
                                  MatrixView v, TensorView sequences,
                                  const AttentionShape& shape) = 0;

  // y = silu(gate) * up. y (N, F) X; gate_up (N, 2F) X: gate, then up. d_gate_up may alias gate_up.
  virtual void swiglu(MatrixView y, MatrixView gate_up) = 0;
  virtual void swiglu_backward(MatrixView d_gate_up, MatrixView dy, MatrixView gate_up) = 0;

  // y = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), GPT-2's gelu_new. y, x (N, F) X; y may
  // alias x, dx may alias dy or x.
  virtual void gelu(MatrixView y, MatrixView x) = 0;
  virtual void gelu_backward(MatrixView dx, MatrixView dy, MatrixView x) = 0;

  // y = a + b. All (N, C) X; y may alias either.
  virtual void add(MatrixView y, MatrixView a, MatrixView b) = 0;

  // y[n,:] (=|+=) table[ids[n],:]. y (N, C) X; ids (N) I32 in range; table (V, C) F32, BF16 or F16,
  // read where it lies, at any byte.
  virtual void embedding(MatrixView y, TensorView ids, TensorView table, Write write) = 0;

  // d_table[ids[n],:] += dy[n,:], n ascending. d_table (V, C) f32; ids (N) I32; dy (N, C) X.
  virtual void embedding_backward(TensorView d_table, TensorView ids, MatrixView dy) = 0;

  // y[rows[n],:] = x[n,:]; other rows of y stay. x (N, C), y (rows, C) one dtype; rows (N) I32,
  // distinct.
  virtual void scatter_rows(MatrixView y, MatrixView x, TensorView rows) = 0;

  // Linear cross-entropy over the vocabulary in chunks, logits never leave the scratch: head_begin
  // once, head_chunk for chunks of weight rows in ascending order, head_finish once. Online softmax
  // with the running maximum. x (N, C) X; weight (rows, C), vocabulary rows [v_begin, v_begin +
  // rows); targets (N) I32. Ref: arXiv:1805.02867 (online softmax), arXiv:2411.09009 (no logits).
  virtual void head_begin(const HeadState& state) = 0;
  virtual void head_chunk(const HeadState& state, MatrixView x, TensorView weight, int64_t v_begin,
                          TensorView targets) = 0;
  // With t = exp(target_logit - max): loss (N) f32 = log((sum + t) / t); dx (N, C) X = grad_scale *
  // (acc - sum target_rows) / (sum + t), or null. sum and acc are without the target, so a row that
  // the model is sure of keeps the digits of its small gradient: nothing is subtracted from 1.
  virtual void head_finish(TensorView loss, MatrixView dx, const HeadState& state,
                           float grad_scale) = 0;
  // d_weight[v,:] += grad_scale * sum over n of (softmax(logits[n])[v] - [target of n is v])
  // x[n, C - K:]: the gradient of the last K columns of a chunk's weight rows, once every chunk has
  // passed head_chunk. d_weight (rows, K) f32, K <= C; the others as head_chunk had them. state.acc
  // is not read.
  virtual void head_weight_backward(TensorView d_weight, const HeadState& state, MatrixView x,
                                    TensorView weight, int64_t v_begin, TensorView targets,
                                    float grad_scale) = 0;

  // out (1) f32 = sum of x^2, fixed order. x f32, any shape.
  virtual void squared_norm(TensorView out, TensorView x) = 0;
  // Decoupled weight decay (arXiv:1711.05101), as torch.optim.AdamW: all of one shape, f32, updated
  // in place. The gradient is multiplied by grad_scale and, when clip > 0, by min(1, clip / (norm +
  // 1e-6)) with norm = grad_scale * sqrt(squared_norm); squared_norm (1) f32 may be null when clip
  // is 0.
  virtual void adamw(TensorView param, TensorView grad, TensorView moment1, TensorView moment2,
                     TensorView squared_norm, const AdamWStep& step) = 0;

  // x = value; any float dtype.
  virtual void fill(TensorView x, float value) = 0;
};

// threads: 0 for all CPUs of this process. Results do not depend on it.
std::unique_ptr<Ops> make_cpu_ops(int threads, const OpsLimits& limits);
// Bytes of scratch that they hold, without allocating it.
int64_t cpu_scratch_bytes(int threads, const OpsLimits& limits);
// Whether bf16 products run faster than f32 on this CPU (AMX or AVX512-BF16).
bool cpu_prefers_bf16();
// Kernels of a device that make_cuda_device made, which outlives them; scratch is allocated on it.
// Usage error where the CUDA backend is not built.
std::unique_ptr<Ops> make_cuda_ops(Device& device, const OpsLimits& limits);
int64_t cuda_scratch_bytes(const OpsLimits& limits);

}  // namespace lema
