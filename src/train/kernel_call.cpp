// Names and arithmetic of kernel calls.
#include "train/kernel_call.h"

#include <array>

#include "core/error.h"

namespace lema {
namespace {

constexpr std::array kNames = {
    "linear",      "linear backward",      "lora norm",    "rmsnorm",       "rmsnorm backward",
    "layernorm",   "layernorm backward",   "rope",         "attention",     "attention backward",
    "swiglu",      "swiglu backward",      "gelu",         "gelu backward", "add",
    "embedding",   "embedding backward",   "scatter rows", "head begin",    "head chunk",
    "head finish", "head weight backward", "squared norm", "adamw",         "fill"};

}  // namespace

std::string_view name(Kernel kernel) { return kNames[static_cast<size_t>(kernel)]; }

std::string KernelCall::key() const {
  std::string key = fmt::format("{} {} {}x{}", name(kernel), lema::name(X), rows, cols);
  if (inner > 0) key += fmt::format("/{}", inner);
  if (weight != DType::F32) key += fmt::format(" w {}", lema::name(weight));
  if (gradient) key += " +grad";
  if (write == Write::Accumulate) key += " +=";
  for (const PartShape& p : parts) {
    key += fmt::format("{}{}{}{}", p.joined ? "&" : " ", p.out, lema::name(p.dtype),
                       p.transposed ? "t" : "");
    if (p.bias) key += fmt::format("+b{}", lema::name(*p.bias));
    if (p.rank > 0)
      key += fmt::format("+r{}{}{}", p.rank, p.dropout ? "d" : "", p.magnitude ? "m" : "");
  }
  if (x_gap + y_gap + dx_gap > 0) key += fmt::format(" gaps {} {} {}", x_gap, y_gap, dx_gap);
  if (table_offset > 0) key += fmt::format(" table at {}", table_offset);
  if (heads.H > 0)
    key += fmt::format(" heads {}/{}x{} window {}", heads.H, heads.Hkv, heads.D, heads.window);
  return key;
}

double KernelCall::flops() const {
  const auto n = static_cast<double>(rows), c = static_cast<double>(cols);
  double sum = 0;
  switch (kernel) {
    case Kernel::Linear:
    case Kernel::LinearBackward: {
      const bool backward = kernel == Kernel::LinearBackward;
      for (const PartShape& p : parts) {
        const auto out = static_cast<double>(p.out), rank = static_cast<double>(p.rank);
        const double base = 2 * n * c * out, low = 2 * n * rank * (c + out);
        sum += backward ? (gradient ? base : 0) + 2 * low : base + low;
      }
      return sum;
    }
    case Kernel::LoraNorm:
      for (const PartShape& p : parts)
        sum += 2 * static_cast<double>(p.out) * static_cast<double>(p.rank) * c;
      return sum;
    case Kernel::Attention:
    case Kernel::AttentionBackward: {
      const double keys = n / static_cast<double>(std::max<int64_t>(1, inner)) / 2;
      const double products = kernel == Kernel::Attention ? 2 : 5;
      return products * 2 * n * keys * static_cast<double>(heads.H * heads.D);
    }
    case Kernel::HeadChunk:
      return (gradient ? 4 : 2) * n * c * static_cast<double>(inner);
    case Kernel::HeadWeightBackward:
      return 2 * n * static_cast<double>(inner) * (c + static_cast<double>(parts[0].out));
    default:
      return 0;
  }
}

double KernelCall::bytes() const {
  const auto n = static_cast<double>(rows), c = static_cast<double>(cols);
  const auto x = static_cast<double>(element_bytes(X)),
             w = static_cast<double>(element_bytes(weight));
  const double matrix = n * c * x;
  double sum = 0;
  switch (kernel) {
    case Kernel::Linear:
    case Kernel::LinearBackward:
    case Kernel::LoraNorm:
      for (const PartShape& p : parts)
        sum +=
            static_cast<double>(p.out) * (c * static_cast<double>(element_bytes(p.dtype)) + n * x);
      return sum + matrix * (gradient ? 2 : 1);
    case Kernel::Attention:
      return n * x * static_cast<double>((2 * heads.H + 2 * heads.Hkv) * heads.D);
    case Kernel::AttentionBackward:
      return n * x * static_cast<double>((4 * heads.H + 4 * heads.Hkv) * heads.D);
    case Kernel::RmsNorm:
    case Kernel::LayerNorm:
    case Kernel::Gelu:
    case Kernel::Rope:
    case Kernel::ScatterRows:
      return 2 * matrix;
    case Kernel::Swiglu:
    case Kernel::Add:
    case Kernel::GeluBackward:
      return 3 * matrix;
    case Kernel::RmsNormBackward:
    case Kernel::LayerNormBackward:
      return (write == Write::Accumulate ? 4 : 3) * matrix;
    case Kernel::SwigluBackward:
      return 5 * matrix;
    case Kernel::Embedding:
      return matrix + n * c * w;
    case Kernel::EmbeddingBackward:
      return matrix + 2 * n * c * 4;
    case Kernel::HeadBegin:
      return gradient ? n * c * (4 + x) : 12 * n;
    case Kernel::HeadChunk:
    case Kernel::HeadWeightBackward:
      return static_cast<double>(inner) * c * w + matrix;
    case Kernel::HeadFinish:
      return gradient ? n * c * (4 + 2 * x) : 16 * n;
    case Kernel::SquaredNorm:
    case Kernel::Fill:
      return n * 4;
    case Kernel::AdamW:
      return n * 28;
  }
  return sum;
}

}  // namespace lema
