// The low-rank side of a linear: h and u of all adapters of a call, and the adapters' gradients.
// Those without dropout read the same x, so they are stacked and run as one of the summed rank.
// Used by linear.
#pragma once

#include <array>
#include <span>

#include "core/thread_pool.h"
#include "cpu/workspace.h"
#include "ops.h"

namespace lema::cpu {

// One part's adapter. With f = scale / (1 - dropout), m the dropout mask and g the gain (1 without
// a magnitude):
// h = f (m x) A^T, so y += g o (h B^T) and dB += (g o dy)^T h; u = f (g o dy) B, so dA += u^T (m x)
// and dx += m (u A).
struct Adapter {
  const LoraView* lora = nullptr;
  int64_t part = 0, column = 0;  // which part, and where it begins in y
  int64_t O = 0, R = 0;
  int64_t stack = 0, offset = 0;  // which stack, and where its R columns begin there
  const float* gain = nullptr;  // (O) magnitude / norm; null: no DoRA
  const float* b = nullptr;     // (O, R) g o B
  Panel b_panel;                // of it, for u
  float factor() const { return lora->scale / (1 - lora->dropout); }
};

// Adapters side by side; one alone when it has dropout.
struct Stack {
  const LoraView* dropout = nullptr;  // null: nothing is masked
  int64_t R = 0, stride = 0;          // summed rank; columns of h and u, padded
  float* rows = nullptr;              // (R, I) the A of all
  float *h = nullptr, *u = nullptr;   // (N, R) f32
  Panel a_transposed;                 // (I, R), for h
};

// (O) magnitude / norm, taken from the workspace.
float* take_gain(Workspace& workspace, const LoraView& lora);

class Adapters {
 public:
  explicit Adapters(std::span<const LinearPart> parts);

  std::span<const Adapter> all() const { return {adapters_.data(), adapter_count_}; }
  std::span<const Stack> stacks() const { return {stacks_.data(), stack_count_}; }
  const Adapter* of_part(int64_t part) const;
  // The adapter of a stack that has dropout.
  const Adapter& only_of(const Stack& stack) const;
  // The stack, where there is one alone, without dropout or gains.
  const Stack* only_plain_stack() const;
  Operand h(const Adapter& adapter, int64_t row) const;

  // h.
  void forward(ThreadPool& pool, Workspace& workspace, const MatrixView& x);
  // h and u; dA += and dB += where they are wanted.
  void backward(ThreadPool& pool, Workspace& workspace, const MatrixView& dy, const MatrixView& x);

 private:
  void take_stacks(Workspace& workspace, const MatrixView& x, bool with_u);
  void take_gains(Workspace& workspace);
  // Of a range of rows; a row is counted within the call.
  struct Rows {
    int64_t begin, end;
  };
  void products(ThreadPool& pool, Workspace& workspace, const MatrixView& x, const MatrixView& dy,
                Rows range) const;
  void gradients(ThreadPool& pool, Workspace& workspace, const MatrixView& dy, const MatrixView& x,
                 Rows range) const;
  void add_db(const Adapter& adapter, const MatrixView& dy, Rows range, int64_t begin, int64_t n,
              const Workspace::Lease& tiles) const;
  void add_da(int64_t stack, const MatrixView& x, Rows range, int64_t begin, int64_t n,
              const Workspace::Lease& tiles) const;

  std::array<Adapter, kMaxAdapters> adapters_;
  std::array<Stack, kMaxAdapters> stacks_;
  size_t adapter_count_ = 0, stack_count_ = 0;
};

}  // namespace lema::cpu
