// Copies of base weights beside an adapter, compared with the model's a few rows at a time.
#include "model/opened_adapter.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "model/adapter_rules.h"

namespace lema {
namespace {

constexpr int64_t kChunkBytes = int64_t{8} << 20;

template <typename Stored, typename Copy>
bool equal_as(const std::byte* stored, const float* copy, int64_t count) {
  const auto* weights = reinterpret_cast<const Stored*>(stored);
  for (int64_t i = 0; i < count; ++i)
    if (to_f32(from_f32<Copy>(to_f32(weights[i]))) != copy[i]) return false;
  return true;
}

template <typename Stored>
bool equal_rounded(const std::byte* stored, const float* copy, int64_t count, DType to) {
  return to == DType::BF16  ? equal_as<Stored, bf16>(stored, copy, count)
         : to == DType::F16 ? equal_as<Stored, f16>(stored, copy, count)
                            : equal_as<Stored, float>(stored, copy, count);
}

// Whether the copy has the weight's numbers, rounded to the type that the copy was stored in.
bool is_same(const BaseCopy& copy, const TensorEntry& weight, const File& file) {
  const int64_t size = element_bytes(weight.dtype), total = weight.shape.elements();
  std::vector<std::byte> chunk(static_cast<size_t>(std::min(weight.bytes, kChunkBytes)));
  for (int64_t begin = 0; begin < total; begin += kChunkBytes / size) {
    const int64_t count = std::min(total - begin, kChunkBytes / size);
    file.read_at(chunk.data(), count * size, weight.offset + begin * size);
    const float* values = copy.values.data() + begin;
    const bool same = weight.dtype == DType::F32
                          ? equal_rounded<float>(chunk.data(), values, count, copy.stored)
                      : weight.dtype == DType::BF16
                          ? equal_rounded<bf16>(chunk.data(), values, count, copy.stored)
                          : equal_rounded<f16>(chunk.data(), values, count, copy.stored);
    if (!same) return false;
  }
  return true;
}

// The model's tensor that PEFT's name of a weight means; "" for none. GPT-2's files come without
// the prefix of its modules too, and a tied head is the embedding's tensor.
std::string tensor_of(const std::string& weight, const ModelFolder& folder,
                      const ModelSpec& spec) {
  constexpr std::string_view kGpt2 = "transformer.";
  if (weight == spec.head.module + ".weight") return spec.head.tensor;
  if (weight == spec.embed.module + ".weight") return spec.embed.tensor;
  if (folder.find(weight)) return weight;
  if (weight.starts_with(kGpt2) && folder.find(weight.substr(kGpt2.size())))
    return weight.substr(kGpt2.size());
  return "";
}

}  // namespace

Adapter open_adapter(const fs::path& path, const ModelFolder& folder, const ModelSpec& spec) {
  Adapter adapter = read_adapter(path);
  check_supported(adapter, path.string());
  check_ranks(adapter, AdapterRules(adapter.config, path.string()), path.string());
  for (const BaseCopy& copy : std::exchange(adapter.base_copies, {})) {
    const std::string tensor = tensor_of(copy.weight, folder, spec);
    const StoredTensor* stored = tensor.empty() ? nullptr : folder.find(tensor);
    if (!stored)
      fail(ErrorCode::BadInput, "{} is a copy of no weight of {}", copy.place,
           folder.path().string());
    if (!(copy.shape == stored->entry.shape))
      fail(ErrorCode::BadInput,
           "{} is {}, {} is {}: the adapter belongs to a model of that size; resize the model's "
           "vocabulary first",
           copy.place, copy.shape.str(), folder.place(*stored), stored->entry.shape.str());
    if (is_same(copy, stored->entry, folder.files()[stored->file].file())) continue;
    const bool is_end = tensor == spec.embed.tensor || tensor == spec.head.tensor;
    if (copy.is_wrapped || !is_end)
      fail(ErrorCode::BadInput,
           "{} differs from {}: the adapter belongs to a model with other weights", copy.place,
           folder.place(*stored));
    log::info("{} takes the place of {}", copy.place, folder.place(*stored));
    for (const FieldSpec* end : {&spec.embed, &spec.head}) {
      if (end->tensor != tensor || adapter.full.contains(end->module)) continue;
      adapter.full[end->module] = {copy.values, copy.shape};
      adapter.own_base.push_back(end->module);
    }
  }
  return adapter;
}

}  // namespace lema
