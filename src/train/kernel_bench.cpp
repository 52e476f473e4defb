// One set-up per kernel: tensors of the call's shapes, then the call a few times.
#include "train/kernel_bench.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <optional>
#include <random>

#include "core/error.h"

namespace lema {
namespace {

constexpr double kLargestFlops = 4e9;  // of one measured call
constexpr int64_t kTileRows = 1024;    // rows and columns that a product is cut into at least
constexpr int64_t kLeastColumns = 384;
constexpr double kEnoughSeconds = 0.02;
constexpr int kLeastRuns = 3, kMostRuns = 5;
// Written before each measured run, so that it finds the caches as a step leaves them: full of other
// things. 128 MiB.
constexpr int64_t kColdFloats = 32 << 20;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

OpsLimits limits_of(const KernelCall& call) {
  OpsLimits limits;
  limits.rows = limits.tokens = std::max<int64_t>(1, call.cols == 1 ? 1 : call.rows);
  limits.width = call.cols;
  for (const PartShape& part : call.parts) {
    limits.width = std::max(limits.width, part.out);
    limits.rank = std::max(limits.rank, part.rank);
    limits.dora |= part.magnitude;
  }
  if (call.kernel == Kernel::HeadChunk || call.kernel == Kernel::HeadWeightBackward)
    limits.vocab_chunk = call.inner;
  limits.heads = std::max<int64_t>(1, call.heads.H);
  limits.head_size = std::max<int64_t>(16, call.heads.D);
  return limits;
}

// Tensors that live as long as one measurement.
class Tensors {
 public:
  explicit Tensors(Device& device) : device_(device) {}

  // Uniform in +-0.1, so that no product overflows and no softmax saturates; the same numbers again
  // and again.
  TensorView random(DType dtype, const Shape& shape) {
    const TensorView view = empty(dtype, shape);
    constexpr size_t kNumbers = 1 << 16;
    std::vector<uint32_t> bits(kNumbers);
    std::minstd_rand generator(1);
    for (uint32_t& b : bits) {
      const float value = 0.2f * (static_cast<float>(generator() % 65536) / 65536 - 0.5f);
      std::memcpy(&b, &value, sizeof b);
    }
    std::vector<uint16_t> narrow(kNumbers);
    for (size_t i = 0; i < kNumbers; ++i)
      narrow[i] = dtype == DType::BF16 ? static_cast<uint16_t>(bits[i] >> 16) : uint16_t{0x2000};
    const void* from = dtype == DType::F32 ? static_cast<const void*>(bits.data()) : narrow.data();
    const int64_t step = static_cast<int64_t>(kNumbers) * element_bytes(dtype);
    for (int64_t at = 0; at < view.bytes(); at += step)
      device_.copy_async(Queue::Compute, static_cast<std::byte*>(view.data) + at, from,
                         std::min(step, view.bytes() - at));
    device_.synchronize(Queue::Compute);
    return view;
  }
  TensorView integers(const Shape& shape, const std::vector<int32_t>& values) {
    return fill(empty(DType::I32, shape), values.data());
  }
  MatrixView matrix(DType dtype, int64_t rows, int64_t cols) {
    return {random(dtype, {rows, cols}).data, dtype, rows, cols};
  }
  TensorView empty(DType dtype, const Shape& shape) {
    TensorView view(nullptr, dtype, shape);
    buffers_.push_back(device_.allocate(std::max<int64_t>(1, view.bytes()), "kernel measurement"));
    view.data = buffers_.back().data();
    return view;
  }

 private:
  TensorView fill(const TensorView& view, const void* values) {
    device_.copy_async(Queue::Compute, view.data, values, view.bytes());
    device_.synchronize(Queue::Compute);
    return view;
  }
  Device& device_;
  std::vector<Buffer> buffers_;
};

// A linear's parts with their adapters.
struct Parts {
  std::vector<LinearPart> parts;
  std::vector<LoraView> lora;
  int64_t columns = 0;

  Parts(Tensors& t, const KernelCall& call) : lora(call.parts.size()) {
    for (size_t i = 0; i < call.parts.size(); ++i) {
      const PartShape& shape = call.parts[i];
      LinearPart part;
      part.transposed = shape.transposed;
      part.weight = t.random(shape.dtype, shape.transposed ? Shape{call.cols, shape.out}
                                                           : Shape{shape.out, call.cols});
      if (shape.rank > 0) part.lora = &adapter(t, lora[i], shape, call.cols);
      columns += shape.out;
      parts.push_back(part);
    }
  }

 private:
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

// Tensors and the parts of a linear, which the call refers to.
struct Setup : Tensors {
  using Tensors::Tensors;
  std::optional<Parts> parts;
};

using Run = std::function<void()>;

Run linear(Ops& ops, Setup& t, const KernelCall& c) {
  const Parts& parts = t.parts.emplace(t, c);
  const MatrixView x = t.matrix(c.X, c.rows, c.cols), y = t.matrix(c.X, c.rows, parts.columns);
  if (c.kernel == Kernel::Linear)
    return [=, &ops, &parts] { ops.linear(y, x, parts.parts, Write::Overwrite); };
  const MatrixView dx = c.gradient ? t.matrix(c.X, c.rows, c.cols) : MatrixView();
  return [=, &ops, &parts] { ops.linear_backward(dx, y, x, parts.parts, Write::Overwrite); };
}

Run norm(Ops& ops, Tensors& t, const KernelCall& c) {
  const MatrixView x = t.matrix(c.X, c.rows, c.cols), y = t.matrix(c.X, c.rows, c.cols),
                   dx = t.matrix(c.X, c.rows, c.cols);
  const TensorView weight = t.random(c.weight, {c.inner}), bias = t.random(c.weight, {c.inner});
  constexpr float kEps = 1e-5f;
  switch (c.kernel) {
    case Kernel::RmsNorm:
      return [=, &ops] { ops.rmsnorm(y, x, weight, kEps); };
    case Kernel::RmsNormBackward:
      return [=, &ops] { ops.rmsnorm_backward(dx, y, x, weight, kEps, Write::Accumulate); };
    case Kernel::LayerNorm:
      return [=, &ops] { ops.layernorm(y, x, weight, bias, kEps); };
    default:
      return [=, &ops] { ops.layernorm_backward(dx, y, x, weight, kEps, Write::Accumulate); };
  }
}

Run attention(Ops& ops, Tensors& t, const KernelCall& c) {
  const int64_t q = c.heads.H * c.heads.D, kv = c.heads.Hkv * c.heads.D;
  const MatrixView all = t.matrix(c.X, c.rows, q + 2 * kv), o = t.matrix(c.X, c.rows, q);
  const MatrixView Q = all.col_range(0, q), K = all.col_range(q, q + kv),
                   V = all.col_range(q + kv, q + 2 * kv);
  const TensorView lse = t.random(DType::F32, {c.rows, c.heads.H}), s = sequences_of(t, c);
  const AttentionShape shape = c.heads;
  if (c.kernel == Kernel::Attention) return [=, &ops] { ops.attention(o, lse, Q, K, V, s, shape); };
  const MatrixView d_all = t.matrix(c.X, c.rows, q + 2 * kv), d_o = t.matrix(c.X, c.rows, q);
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
  const MatrixView x = t.matrix(c.X, c.rows, C);
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
  const MatrixView x = t.matrix(c.X, c.rows, c.cols), y = t.matrix(c.X, c.rows, c.cols);
  switch (c.kernel) {
    case Kernel::Rope: {
      const TensorView positions = spread(t, c.rows, c.rows),
                       table = t.random(DType::F32, {c.rows, c.inner});
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
      if (c.kernel == Kernel::Swiglu) return [=, &ops] { ops.swiglu(y, both); };
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
        const TensorView table = t.random(c.weight, {kTableRows, c.cols});
        return [=, &ops] { ops.embedding(y, ids, table, Write::Overwrite); };
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

Run prepare(Ops& ops, Setup& t, const KernelCall& c) {
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

// A smaller call of the same kind, and how many times longer the call takes.
std::pair<KernelCall, double> reduced(const KernelCall& call) {
  KernelCall small = call;
  double factor = 1;
  const auto shrink = [&](int64_t& size, int64_t least) {
    const double times = call.flops() / factor / kLargestFlops;
    if (times <= 1 || size <= least) return;
    const int64_t to = std::max<int64_t>(least, std::llround(static_cast<double>(size) / times));
    factor *= static_cast<double>(size) / static_cast<double>(to);
    size = to;
  };
  switch (call.kernel) {
    case Kernel::Linear:
    case Kernel::LinearBackward:
      shrink(small.rows, kTileRows);
      if (call.parts.size() == 1) {
        shrink(small.parts[0].out, kLeastColumns);
      } else if (call.flops() / factor > 2 * kLargestFlops) {
        const double before = small.flops();
        for (PartShape& part : small.parts) part.out = std::min(part.out, kLeastColumns);
        factor *= before / small.flops();
      }
      break;
    case Kernel::HeadChunk:
    case Kernel::HeadWeightBackward:
      shrink(small.inner, kLeastColumns);
      shrink(small.rows, kTileRows);
      break;
    case Kernel::Attention:
    case Kernel::AttentionBackward:
      if (const double times = call.flops() / kLargestFlops; times > 1 && call.inner > 1) {
        small.inner = std::max<int64_t>(1, std::llround(static_cast<double>(call.inner) / times));
        small.rows = call.rows * small.inner / call.inner;
        factor = static_cast<double>(call.inner) / static_cast<double>(small.inner);
      }
      break;
    default:
      break;
  }
  return {small, factor};
}

}  // namespace

double KernelBench::measure(const KernelCall& call) {
  Device& device = *backend_.device;
  const std::unique_ptr<Ops> ops = backend_.ops.make(device, threads_, limits_of(call));
  Setup setup(device);
  const Run run = prepare(*ops, setup, call);
  if (cold_.bytes() == 0) cold_ = device.allocate(4 * kColdFloats, "kernel measurement");
  const TensorView cold(cold_.data(), DType::F32, {kColdFloats});
  const auto timed = [&] {
    ops->fill(cold, 0);
    device.synchronize(Queue::Compute);
    const double start = now();
    run();
    device.synchronize(Queue::Compute);
    return now() - start;
  };
  timed();
  std::vector<double> runs;
  double sum = 0;
  while (std::ssize(runs) < kMostRuns && (std::ssize(runs) < kLeastRuns || sum < kEnoughSeconds)) {
    runs.push_back(timed());
    sum += runs.back();
  }
  const auto middle = runs.begin() + std::ssize(runs) / 2;
  std::nth_element(runs.begin(), middle, runs.end());
  return *middle;
}

double KernelBench::seconds(const KernelCall& call) {
  const auto [small, factor] = reduced(call);
  return factor * measure(small);
}

double KernelBench::copy_rate() const {
  constexpr int64_t kBytes = 64 << 20;
  constexpr int kRuns = 3;
  Device& device = *backend_.device;
  const Buffer host = device.allocate_pinned(kBytes, "copy measurement"),
               there = device.allocate(kBytes, "copy measurement");
  std::memset(host.data(), 1, kBytes);
  double best = 0;
  for (int i = 0; i <= kRuns; ++i) {  // the first touches the pages
    const double start = now();
    device.copy_async(Queue::H2D, there.data(), host.data(), kBytes);
    device.synchronize(Queue::H2D);
    best = i == 0 ? 0 : std::max(best, kBytes / (now() - start));
  }
  return best;
}

}  // namespace lema
