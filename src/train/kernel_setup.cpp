// One set-up per kernel: tensors of the call's shapes, then the call on them.
#include "train/kernel_setup.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <random>
#include <vector>

namespace lema {
namespace {

// Tensors that live as long as one set-up.
class Tensors {
 public:
  Tensors(Device& device, Ops& ops, KernelSetup::Values values)
      : device_(device), ops_(ops), values_(values) {}

  // Uniform in +-0.1, so that no product overflows and no softmax saturates; or zeros.
  TensorView random(DType dtype, const Shape& shape) {
    const TensorView view = empty(dtype, shape);
    if (values_ == KernelSetup::Values::Zero) {
      const int64_t floats = buffers_.back().bytes() / int64_t{sizeof(float)};
      ops_.fill({view.data, DType::F32, {floats}}, 0);
      return view;
    }
    const int64_t count = std::min(view.elements(), kPattern), item = element_bytes(dtype);
    std::vector<std::byte> pattern(static_cast<size_t>(count * item));
    std::minstd_rand generator(1);
    for (int64_t i = 0; i < count; ++i) {
      const float value = 0.2f * (static_cast<float>(generator() % 65536) / 65536 - 0.5f);
      uint32_t bits;
      std::memcpy(&bits, &value, sizeof bits);
      if (dtype != DType::F32) bits = dtype == DType::BF16 ? bits >> 16 : 0x2000;
      std::memcpy(pattern.data() + i * item, &bits, static_cast<size_t>(item));
    }
    auto* to = static_cast<std::byte*>(view.data);
    for (int64_t at = 0; at < view.bytes(); at += count * item)
      device_.copy_async(Queue::Compute, to + at, pattern.data(),
                         std::min(count * item, view.bytes() - at));
    device_.synchronize(Queue::Compute);
    return view;
  }
  TensorView integers(const Shape& shape, const std::vector<int32_t>& values) {
    const TensorView view = empty(DType::I32, shape);
    device_.copy_async(Queue::Compute, view.data, values.data(), view.bytes());
    device_.synchronize(Queue::Compute);
    return view;
  }
  MatrixView matrix(DType dtype, int64_t rows, int64_t cols, int64_t gap = 0) {
    return {random(dtype, {rows, cols + gap}).data, dtype, rows, cols, cols + gap};
  }
  TensorView empty(DType dtype, const Shape& shape) {
    TensorView view(nullptr, dtype, shape);
    const int64_t bytes = std::max<int64_t>(4, (view.bytes() + 3) / 4 * 4);  // whole floats
    buffers_.push_back(device_.allocate(bytes, "kernel set-up"));
    view.data = buffers_.back().data();
    return view;
  }

  // What the call before has just written.
  MatrixView input;

 private:
  static constexpr int64_t kPattern = 1 << 16;  // elements that repeat
  Device& device_;
  Ops& ops_;
  KernelSetup::Values values_;
  std::vector<Buffer> buffers_;
};

// A linear's parts with their adapters.
class Parts {
 public:
  std::vector<LinearPart> parts;
  std::vector<LoraView> lora;
  int64_t columns = 0;

  Parts(Tensors& t, const KernelCall& call) : lora(call.parts.size()) {
    for (size_t i = 0; i < call.parts.size(); ++i) {
      const PartShape& shape = call.parts[i];
      LinearPart part;
      part.transposed = shape.transposed;
      part.weight = weight(t, call, i);
      if (shape.bias) part.bias = t.random(*shape.bias, {shape.out});
      if (shape.rank > 0) part.lora = &adapter(t, lora[i], shape, call.cols);
      columns += shape.out;
      parts.push_back(part);
    }
  }

 private:
  // Those that are joined are parts of one tensor, that of the first.
  TensorView weight(Tensors& t, const KernelCall& call, size_t i) {
    const PartShape& own = call.parts[i];
    if (!own.joined) {
      int64_t outs = own.out;
      for (size_t p = i + 1; p < call.parts.size() && call.parts[p].joined; ++p)
        outs += call.parts[p].out;
      next_ = static_cast<std::byte*>(t.random(own.dtype, {outs, call.cols}).data);
    }
    const TensorView view(next_, own.dtype, own.transposed ? Shape{call.cols, own.out}
                                                           : Shape{own.out, call.cols});
    next_ += view.bytes();
    return view;
  }
  static LoraView& adapter(Tensors& t, LoraView& view, const PartShape& shape, int64_t in) {
    view.a = t.random(DType::F32, {shape.rank, in});
    view.b = t.random(DType::F32, {shape.out, shape.rank});
    view.da = t.random(DType::F32, {shape.rank, in});
    view.db = t.random(DType::F32, {shape.out, shape.rank});
    view.scale = 2;
    view.dropout = shape.dropout ? 0.1f : 0;
    if (shape.magnitude)
      for (TensorView* vector : {&view.magnitude, &view.norm, &view.d_magnitude})
        *vector = t.random(DType::F32, {shape.out});
    return view;
  }

  std::byte* next_ = nullptr;  // where a joined weight begins
};

TensorView sequences_of(Tensors& t, const KernelCall& call) {
  std::vector<int32_t> values;
  for (int64_t s = 0; s < call.inner; ++s) {
    const auto begin = static_cast<int32_t>(call.rows * s / call.inner),
               size = static_cast<int32_t>(call.rows * (s + 1) / call.inner) - begin;
    values.insert(values.end(), {begin, size, begin, size});
  }
  return t.integers({call.inner, 4}, values);
}

// Numbers below `bound`, spread over it and distinct where there are enough.
TensorView spread(Tensors& t, int64_t count, int64_t bound) {
  std::vector<int32_t> values;
  for (int64_t i = 0; i < count; ++i)
    values.push_back(static_cast<int32_t>(count <= bound ? i * (bound / count) : i % bound));
  return t.integers({count}, values);
}

}  // namespace

// Tensors and the parts of a linear, which the call refers to.
struct KernelSetup::Operands : Tensors {
  using Tensors::Tensors;
  std::optional<Parts> parts;
};

namespace {

using Run = std::function<void()>;

template <typename Operands>
Run linear(Ops& ops, Operands& t, const KernelCall& c) {
  const Parts& parts = t.parts.emplace(t, c);
  const MatrixView x = t.matrix(c.X, c.rows, c.cols, c.x_gap),
                   y = t.matrix(c.X, c.rows, parts.columns, c.y_gap);
  t.input = c.kernel == Kernel::Linear ? x : y;
  if (c.kernel == Kernel::Linear)
    return [=, write = c.write, &ops, &parts] { ops.linear(y, x, parts.parts, write); };
  const MatrixView dx = c.gradient ? t.matrix(c.X, c.rows, c.cols, c.dx_gap) : MatrixView();
  return [=, write = c.write, &ops, &parts] {
    ops.linear_backward(dx, y, x, parts.parts, write);
  };
}

Run norm(Ops& ops, Tensors& t, const KernelCall& c) {
  const MatrixView x = t.matrix(c.X, c.rows, c.cols, c.x_gap),
                   y = t.matrix(c.X, c.rows, c.cols, c.y_gap),
                   dx = t.matrix(c.X, c.rows, c.cols, c.dx_gap);
  t.input = c.kernel == Kernel::RmsNorm || c.kernel == Kernel::LayerNorm ? x : y;
  const TensorView weight = t.random(c.weight, {c.inner}), bias = t.random(c.weight, {c.inner});
  constexpr float kEps = 1e-5f;
  const Write write = c.write;
  switch (c.kernel) {
    case Kernel::RmsNorm:
      return [=, &ops] { ops.rmsnorm(y, x, weight, kEps); };
    case Kernel::RmsNormBackward:
      return [=, &ops] { ops.rmsnorm_backward(dx, y, x, weight, kEps, write); };
    case Kernel::LayerNorm:
      return [=, &ops] { ops.layernorm(y, x, weight, bias, kEps); };
    default:
      return [=, &ops] { ops.layernorm_backward(dx, y, x, weight, kEps, write); };
  }
}

Run attention(Ops& ops, Tensors& t, const KernelCall& c) {
  const int64_t q = c.heads.H * c.heads.D, kv = c.heads.Hkv * c.heads.D;
  const MatrixView all = t.matrix(c.X, c.rows, q + 2 * kv), o = t.matrix(c.X, c.rows, q);
  const MatrixView Q = all.col_range(0, q), K = all.col_range(q, q + kv),
                   V = all.col_range(q + kv, q + 2 * kv);
  const TensorView lse = t.random(DType::F32, {c.rows, c.heads.H}), s = sequences_of(t, c);
  const AttentionShape shape = c.heads;
  t.input = all;
  if (c.kernel == Kernel::Attention) return [=, &ops] { ops.attention(o, lse, Q, K, V, s, shape); };
  const MatrixView d_all = t.matrix(c.X, c.rows, q + 2 * kv), d_o = t.matrix(c.X, c.rows, q);
  t.input = d_o;
  return [=, &ops] {
    ops.attention_backward(d_all.col_range(0, q), d_all.col_range(q, q + kv),
                           d_all.col_range(q + kv, q + 2 * kv), d_o, o, lse, Q, K, V, s, shape);
  };
}

Run head(Ops& ops, Tensors& t, const KernelCall& c) {
  const int64_t C = std::max<int64_t>(1, c.cols);
  HeadState state{t.random(DType::F32, {c.rows}),
                  t.random(DType::F32, {c.rows}),
                  t.random(DType::F32, {c.rows}),
                  {},
                  {}};
  if (c.gradient && c.kernel != Kernel::HeadWeightBackward) {
    state.acc = t.random(DType::F32, {c.rows, C});
    state.target_rows = t.random(c.X, {c.rows, C});
  }
  if (c.kernel == Kernel::HeadBegin) return [=, &ops] { ops.head_begin(state); };
  if (c.kernel == Kernel::HeadFinish) {
    const TensorView loss = t.random(DType::F32, {c.rows});
    const MatrixView dx = c.gradient ? t.matrix(c.X, c.rows, C) : MatrixView();
    return [=, &ops] { ops.head_finish(loss, dx, state, 1e-3f); };
  }
  const MatrixView x = t.input = t.matrix(c.X, c.rows, C);
  const TensorView weight = t.random(c.weight, {c.inner, C}), targets = spread(t, c.rows, c.inner);
  if (c.kernel == Kernel::HeadChunk)
    return [=, &ops] {
      ops.head_begin(state);
      ops.head_chunk(state, x, weight, 0, targets);
    };
  const TensorView d_weight = t.random(DType::F32, {c.inner, c.parts[0].out});
  return [=, &ops] { ops.head_weight_backward(d_weight, state, x, weight, 0, targets, 1e-3f); };
}

Run rows(Ops& ops, Tensors& t, const KernelCall& c) {
  const MatrixView x = t.matrix(c.X, c.rows, c.cols, c.x_gap),
                   y = t.matrix(c.X, c.rows, c.cols, c.y_gap);
  t.input = c.kernel == Kernel::GeluBackward || c.kernel == Kernel::SwigluBackward ? y : x;
  switch (c.kernel) {
    case Kernel::Rope: {
      const TensorView positions = spread(t, c.rows, c.rows),
                       table = t.random(DType::F32, {c.rows, c.parts[0].out});
      return [=, &ops] { ops.rope(x, positions, table, c.inner, false); };
    }
    case Kernel::Gelu:
      return [=, &ops] { ops.gelu(y, x); };
    case Kernel::Add:
      return [=, &ops] { ops.add(y, x, y); };
    case Kernel::GeluBackward: {
      const MatrixView dx = t.matrix(c.X, c.rows, c.cols);
      return [=, &ops] { ops.gelu_backward(dx, y, x); };
    }
    case Kernel::Swiglu:
    case Kernel::SwigluBackward: {
      const MatrixView both = t.matrix(c.X, c.rows, 2 * c.cols);
      if (c.kernel == Kernel::Swiglu) {
        t.input = both;
        return [=, &ops] { ops.swiglu(y, both); };
      }
      return [=, &ops] { ops.swiglu_backward(both, y, both); };
    }
    case Kernel::ScatterRows: {
      const TensorView places = spread(t, c.rows, c.rows);
      return [=, &ops] { ops.scatter_rows(y, x, places); };
    }
    default: {  // tables as large as a vocabulary's part
      constexpr int64_t kTableRows = 16384;
      const TensorView ids = spread(t, c.rows, kTableRows);
      if (c.kernel == Kernel::Embedding) {
        // Room for any offset below 16 bytes.
        const TensorView room = t.random(c.weight, {kTableRows + 16, c.cols}),
                         table(static_cast<std::byte*>(room.data) + c.table_offset, c.weight,
                               {kTableRows, c.cols});
        return [=, write = c.write, &ops] { ops.embedding(y, ids, table, write); };
      }
      const TensorView d_table = t.random(DType::F32, {kTableRows, c.cols});
      return [=, &ops] { ops.embedding_backward(d_table, ids, x); };
    }
  }
}

Run flat(Ops& ops, Tensors& t, const KernelCall& c) {
  const TensorView x = t.random(c.X, {c.rows}), norm = t.random(DType::F32, {1});
  if (c.kernel == Kernel::Fill) return [=, &ops] { ops.fill(x, 0); };
  if (c.kernel == Kernel::SquaredNorm) return [=, &ops] { ops.squared_norm(norm, x); };
  const TensorView g = t.random(DType::F32, {c.rows}), m = t.random(DType::F32, {c.rows}),
                   v = t.random(DType::F32, {c.rows});
  ops.fill(v, 0.01f);
  AdamWStep step;
  step.clip = 1;
  return [=, &ops] { ops.adamw(x, g, m, v, norm, step); };
}

template <typename Operands>
Run prepare(Ops& ops, Operands& t, const KernelCall& c) {
  switch (c.kernel) {
    case Kernel::Linear:
    case Kernel::LinearBackward:
      return linear(ops, t, c);
    case Kernel::LoraNorm: {
      const Parts& parts = t.parts.emplace(t, c);
      const TensorView norms = t.random(DType::F32, {c.parts[0].out});
      return [=, &ops, &parts] { ops.lora_norm(norms, parts.parts[0]); };
    }
    case Kernel::RmsNorm:
    case Kernel::RmsNormBackward:
    case Kernel::LayerNorm:
    case Kernel::LayerNormBackward:
      return norm(ops, t, c);
    case Kernel::Attention:
    case Kernel::AttentionBackward:
      return attention(ops, t, c);
    case Kernel::HeadBegin:
    case Kernel::HeadChunk:
    case Kernel::HeadFinish:
    case Kernel::HeadWeightBackward:
      return head(ops, t, c);
    case Kernel::SquaredNorm:
    case Kernel::AdamW:
    case Kernel::Fill:
      return flat(ops, t, c);
    default:
      return rows(ops, t, c);
  }
}

}  // namespace

KernelSetup::KernelSetup(Device& device, Ops& ops, const KernelCall& call, Values values)
    : operands_(std::make_unique<Operands>(device, ops, values)),
      run_(prepare(ops, *operands_, call)) {}

KernelSetup::~KernelSetup() = default;

void KernelSetup::touch_input() const {
  constexpr int64_t kCacheLine = 64;
  const MatrixView& input = operands_->input;
  unsigned sum = 0;
  for (int64_t row = 0; row < input.rows; ++row) {
    const auto* at = static_cast<const std::byte*>(input.row_range(row, row + 1).data);
    for (int64_t i = 0; i < input.cols * element_bytes(input.dtype); i += kCacheLine)
      sum += static_cast<unsigned>(at[i]);
  }
  [[maybe_unused]] volatile unsigned kept = sum;
}

}  // namespace lema
