// AdamW in one pass over parameter, gradient and moments; the squared norm in 256 fixed parts. Ref:
// arXiv:1711.05101.
#include "cpu/adamw.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "cpu/convert.h"
#include "cpu/simd.h"
#include "cpu/tile.h"

namespace lema::cpu {
namespace {

constexpr int64_t kBlock = 16384;  // elements of one task

// Element-wise square root, an instruction where W floats fill a register.
template <int W>
[[gnu::always_inline]] inline Floats<W> square_root(Floats<W> x) {
  float out[W];
  store<W>(out, x);
  for (int i = 0; i < W; ++i) out[i] = __builtin_sqrtf(out[i]);
  return load<W>(out);
}

}  // namespace

void adamw(ThreadPool& pool, TensorView param, TensorView grad, TensorView moment1,
           TensorView moment2, TensorView squared_norm, const AdamWStep& step) {
  float scale = step.grad_scale;
  if (step.clip > 0) {
    const float norm = step.grad_scale * std::sqrt(*squared_norm.as<float>());
    scale *= std::min(1.0f, step.clip / (norm + 1e-6f));
    if (std::isnan(norm)) scale = norm;  // min() would hide it
  }
  const auto t = static_cast<double>(step.step);
  const auto correction1 = static_cast<float>(1 - std::pow(static_cast<double>(step.beta1), t));
  const auto correction2 =
      static_cast<float>(std::sqrt(1 - std::pow(static_cast<double>(step.beta2), t)));
  const float decay = 1 - step.lr * step.weight_decay, rate = step.lr / correction1;
  const float beta1 = step.beta1, beta2 = step.beta2, eps = step.eps;
  float *p = param.as<float>(), *m1 = moment1.as<float>(), *m2 = moment2.as<float>();
  const float* g = grad.as<float>();
  const int64_t n = param.elements();
  run(pool, tile_count(n, kBlock), [&](int64_t block) {
    const int64_t begin = block * kBlock;
    vectorised([&](auto lanes) {
      constexpr int W = lanes.kCount;
      for_columns<W>(std::min(kBlock, n - begin), [&](int64_t c, auto count) {
        const int64_t i = begin + c;
        const Floats<W> gradient = load<W>(g + i, count) * scale;
        const Floats<W> first = load<W>(m1 + i, count) * beta1 + gradient * (1 - beta1);
        const Floats<W> second = load<W>(m2 + i, count) * beta2 + gradient * gradient * (1 - beta2);
        const Floats<W> root = square_root<W>(second) / correction2 + eps;
        store<W>(m1 + i, first, count);
        store<W>(m2 + i, second, count);
        store<W>(p + i, load<W>(p + i, count) * decay - rate * (first / root), count);
      });
    });
  });
}

void squared_norm(ThreadPool& pool, TensorView out, TensorView x) {
  // The split depends on the size alone; parts are added in their order, in double so that many
  // small tensors and one large one lose nothing.
  constexpr int64_t kParts = 256;
  const int64_t n = x.elements(), step = std::max(kBlock, tile_count(n, kParts));
  const float* data = x.as<float>();
  std::array<double, kParts> parts{};
  run(pool, tile_count(n, step), [&](int64_t part) {
    const int64_t begin = part * step, end = std::min(n, begin + step);
    double total = 0;
    for (int64_t i = begin; i < end; i += 1024) {
      vectorised([&](auto lanes) {
        constexpr int W = lanes.kCount;
        total += static_cast<double>(
            sum_columns<W>(std::min<int64_t>(1024, end - i), [&](int64_t c, auto count) {
              const Floats<W> v = load<W>(data + i + c, count);
              return v * v;
            }));
      });
    }
    parts[static_cast<size_t>(part)] = total;
  });
  double total = 0;
  for (double part : parts) total += part;
  *out.as<float>() = static_cast<float>(total);
}

void fill(ThreadPool& pool, TensorView x, float value) {
  const int64_t n = x.elements(), item = element_bytes(x.dtype);
  run(pool, tile_count(n, kBlock), [&](int64_t block) {
    float values[1024];
    std::fill_n(values, 1024, value);
    const int64_t end = std::min(n, (block + 1) * kBlock);
    for (int64_t i = block * kBlock; i < end; i += 1024)
      narrow(static_cast<char*>(x.data) + i * item, x.dtype, values,
             std::min<int64_t>(1024, end - i));
  });
}

}  // namespace lema::cpu
