// The low-rank side of a linear: h and u of all adapters of a call, and the adapters' gradients.
// Adapters without dropout read the same x, so their A are stacked and multiplied at once. Used by
// linear.
#pragma once

#include <array>
#include <span>

#include "cuda/gemm.h"
#include "cuda/workspace.h"
#include "ops.h"

namespace lema::cuda {

// What the composed kernels work with.
struct Engine {
  cudaStream_t stream;
  Gemm& gemm;
  Workspace& workspace;
};

// One part's adapter. With f = scale / (1 - dropout) and m the dropout mask: h = f (m x) A^T, so
// y += h B^T and dB += dy^T h; u = f dy B, so dA += u^T (m x) and dx += m (u A). With a gain g
// (DoRA) B is g o B, and dB += g o (dy^T h) row by row. Ranks are padded to eight with zeros, so
// that rows stay aligned.
struct Adapter {
  const LoraView* lora = nullptr;
  int64_t part = 0, column = 0;  // which part, and where it begins in y
  int64_t O = 0, R = 0, padded = 0;
  int64_t offset = 0;  // where its columns begin in h and u
  MatrixView b;        // (O, padded) X, with a gain g o B
  // (O) f32, magnitude / norm, and (O, padded) X without it; null without DoRA.
  const float* gain = nullptr;
  MatrixView b_alone;
  float factor() const { return lora->scale / (1 - lora->dropout); }
  bool has_dropout() const { return lora->dropout > 0; }
};

class Adapters {
 public:
  // Takes scratch, which lives as long as the caller's scope of the workspace, and rounds A and B.
  Adapters(const Engine& engine, const MatrixView& x, std::span<const LinearPart> parts);

  std::span<const Adapter> all() const { return {adapters_.data(), count_}; }
  const Adapter* of_part(size_t part) const;
  bool any_dropout() const { return plain_ < total_; }
  bool any_gain() const;
  // m x for columns [c, c + n) of x, in scratch that the next call takes again.
  MatrixView dropped(const Adapter& adapter, const MatrixView& x, int64_t c, int64_t n) const;
  // (N, padded) X
  MatrixView h(const Adapter& adapter) const { return columns_of(h_, adapter); }
  MatrixView u(const Adapter& adapter) const { return columns_of(u_, adapter); }
  // (padded, I) X
  MatrixView a(const Adapter& adapter) const {
    return a_.row_range(adapter.offset, adapter.offset + adapter.padded);
  }
  // u and A of the adapters without dropout, side by side; empty when there are none.
  MatrixView plain_u() const { return u_.col_range(0, plain_); }
  MatrixView plain_a() const { return a_.row_range(0, plain_); }

  // h.
  void forward(const MatrixView& x);
  // h and u; dA += and dB += where they are wanted.
  void backward(const MatrixView& dy, const MatrixView& x);

 private:
  static MatrixView columns_of(const MatrixView& m, const Adapter& adapter) {
    return m.col_range(adapter.offset, adapter.offset + adapter.padded);
  }
  void round_operands(Adapter& adapter, DType X);
  void add_db(const Adapter& adapter, const MatrixView& dy);
  void add_gradients(const Adapter& adapter, const MatrixView& dy, const MatrixView& x);

  Engine engine_;
  std::array<Adapter, kMaxAdapters> adapters_;
  size_t count_ = 0;
  int64_t total_ = 0;
  int64_t plain_ = 0;  // columns of the adapters without dropout, which come first
  MatrixView a_, h_, u_, sums_, masked_;
};

}  // namespace lema::cuda
