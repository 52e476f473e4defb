// Copies of base weights beside an adapter, compared with the model's a chunk at a time.
#include "model/opened_adapter.h"

#include <algorithm>
#include <iterator>
#include <set>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "model/adapter_rules.h"

namespace lema {
namespace {

constexpr int64_t kChunk = int64_t{1} << 20;  // elements of a comparison

// use(T{}) with the type of a weight that the model reads or of a copy that read_adapter took.
template <typename Use>
auto with_type(DType dtype, const Use& use) {
  switch (dtype) {
    case DType::F32:
      return use(float{});
    case DType::BF16:
      return use(bf16{});
    case DType::F16:
      return use(f16{});
    default:
      fail(ErrorCode::BadInput, "a weight is {}, expected F32, BF16 or F16", name(dtype));
  }
}

// Some elements of a tensor, as bytes that lie as its type needs.
std::vector<std::byte> elements(const File& file, const TensorEntry& tensor, int64_t begin,
                                int64_t count) {
  const int64_t size = element_bytes(tensor.dtype);
  std::vector<std::byte> raw(static_cast<size_t>(count * size));
  file.read_at(raw.data(), count * size, tensor.offset + begin * size);
  return raw;
}

// Whether the copy has the weight's numbers, rounded to the type that the copy was stored in. Both
// are of one shape.
bool is_same(const TensorEntry& copy, const File& copies, const TensorEntry& weight,
             const File& weights) {
  const int64_t total = weight.shape.elements();
  for (int64_t begin = 0; begin < total; begin += kChunk) {
    const int64_t count = std::min(total - begin, kChunk);
    const auto mine = elements(copies, copy, begin, count),
               base = elements(weights, weight, begin, count);
    const bool same = with_type(copy.dtype, [&]<typename Copy>(Copy) {
      return with_type(weight.dtype, [&]<typename Stored>(Stored) {
        const auto* x = reinterpret_cast<const Copy*>(mine.data());
        const auto* y = reinterpret_cast<const Stored*>(base.data());
        return std::equal(x, x + count, y, [](Copy a, Stored b) {
          return to_f32(a) == to_f32(from_f32<Copy>(to_f32(b)));
        });
      });
    });
    if (!same) return false;
  }
  return true;
}

std::set<std::string> tensors_of(const ModelSpec& spec) {
  std::set<std::string> names = {spec.embed.tensor, spec.head.tensor};
  const auto add = [&](const std::vector<FieldSpec>& fields) {
    for (const FieldSpec& field : fields) names.insert(field.tensor);
  };
  add(spec.positions);
  add(spec.final_norm);
  for (const auto& block : spec.blocks)
    for (const PieceSpec& piece : block) add(piece.fields);
  return names;
}

// The tensor of the model that PEFT's name of a weight means; "" for none. GPT-2's files come
// without the prefix of its modules too, and a tied head is the embedding's tensor.
std::string tensor_of(const std::string& weight, const ModelSpec& spec,
                      const std::set<std::string>& tensors) {
  constexpr std::string_view kGpt2 = "transformer.";
  if (weight == spec.head.module + ".weight") return spec.head.tensor;
  if (weight == spec.embed.module + ".weight") return spec.embed.tensor;
  if (tensors.contains(weight)) return weight;
  if (weight.starts_with(kGpt2) && tensors.contains(weight.substr(kGpt2.size())))
    return weight.substr(kGpt2.size());
  return "";
}

// Forgets a copy, lets it take the base's place, or refuses it.
void take_copy(Adapter& adapter, const BaseCopy& copy, const std::string& tensor,
               const ModelFolder& folder, const ModelSpec& spec) {
  const StoredTensor* stored = tensor.empty() ? nullptr : folder.find(tensor);
  if (!stored)
    fail(ErrorCode::BadInput, "{} is a copy of no weight of {}", copy.place,
         folder.path().string());
  const bool is_end = tensor == spec.embed.tensor || tensor == spec.head.tensor;
  const Shape &mine = copy.entry.shape, &base = stored->entry.shape;
  if (!(mine == base))
    fail(ErrorCode::BadInput, "{} is {}, {} is {}: the adapter belongs to a model of that size{}",
         copy.place, mine.str(), folder.place(*stored), base.str(),
         is_end && mine.rank() == 2 && mine[1] == base[1] ? "; resize the model's vocabulary first"
                                                          : "");
  if (is_same(copy.entry, adapter.file->file(), stored->entry, folder.files()[stored->file].file()))
    return;
  const FieldSpec* ends[] = {&spec.embed, &spec.head};
  const bool has_pair = std::any_of(std::begin(ends), std::end(ends), [&](const FieldSpec* end) {
    return end->tensor == tensor && adapter.modules.contains(end->module);
  });
  if (copy.is_wrapped || !is_end || has_pair)
    fail(ErrorCode::BadInput,
         "{} differs from {}: the adapter belongs to a model with other weights", copy.place,
         folder.place(*stored));
  log::info("{} takes the place of {}", copy.place, folder.place(*stored));
  for (const FieldSpec* end : ends) {
    if (end->tensor != tensor || adapter.full.contains(end->module)) continue;
    adapter.full[end->module] = read_base_copy(*adapter.file, copy);
    adapter.own_base.push_back(end->module);
  }
}

}  // namespace

Adapter open_adapter(const fs::path& path, const ModelFolder& folder, const ModelSpec& spec) {
  Adapter adapter = read_adapter(path);
  check_supported(adapter, path.string());
  resolve_targets(adapter, path.string());
  check_ranks(adapter, AdapterRules(adapter.config, path.string()), path.string());
  const std::set<std::string> tensors = tensors_of(spec);
  for (const BaseCopy& copy : std::exchange(adapter.base_copies, {}))
    take_copy(adapter, copy, tensor_of(copy.weight, spec, tensors), folder, spec);
  adapter.file.reset();
  return adapter;
}

}  // namespace lema
