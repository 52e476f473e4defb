// Values of an adapter: fresh, from a PEFT adapter, and back into one. Layout and views are in
// adapter_parameters.cpp.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <set>

#include "core/rng.h"
#include "model/adapter_parameters.h"

namespace lema {
namespace {

// One of the two standard normals that four random words give (Box-Muller).
float normal(const std::array<uint32_t, 4>& words, int64_t which) {
  const float u = 1 - uniform(words[0]), angle = 6.2831853f * uniform(words[1]);
  return std::sqrt(-2 * std::log(u)) * (which == 0 ? std::cos(angle) : std::sin(angle));
}

// (rows, cols) becomes (cols, rows).
std::vector<float> turned(const std::vector<float>& x, int64_t rows, int64_t cols) {
  std::vector<float> out(x.size());
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c)
      out[static_cast<size_t>(c * rows + r)] = x[static_cast<size_t>(r * cols + c)];
  return out;
}

}  // namespace

void AdapterParameters::initialise(uint64_t seed) {
  std::vector<float> values(static_cast<size_t>(parameter_count_), 0.0f);
  for (size_t s = 0; s < slots_.size(); ++s) {
    const AdapterSlot& slot = slots_[s];
    const auto words = [&](int64_t counter) {
      return philox(seed, RngStream::AdapterInit, static_cast<uint64_t>(counter),
                    static_cast<uint32_t>(s));
    };
    if (slot.site.field == Field::Embed) {
      float* b = values.data() + slot.b_offset;
      for (int64_t i = 0; i < slot.rank * slot.site.out; ++i) b[i] = normal(words(i / 2), i % 2);
      continue;
    }
    float* a = values.data() + slot.a_offset;
    const float bound = 1.0f / std::sqrt(static_cast<float>(slot.site.in));
    const int64_t count = slot.rank * slot.site.in;
    for (int64_t i = 0; i < count; i += 4) {
      const std::array<uint32_t, 4> four = words(i / 4);
      for (int64_t k = 0; k < std::min<int64_t>(4, count - i); ++k)
        a[i + k] = bound * (2 * uniform(four[static_cast<size_t>(k)]) - 1);
    }
  }
  upload(values);
}

void AdapterParameters::upload(const std::vector<float>& values) {
  device_->copy_async(Queue::Compute, values_.data(), values.data(), parameter_count_ * 4);
  device_->synchronize(Queue::Compute);
  values_changed();
}

void AdapterParameters::load(const Adapter& adapter) {
  std::vector<float> values(static_cast<size_t>(parameter_count_), 0.0f);
  const AdapterRules rules(adapter.config, "the adapter");
  const auto put = [&](int64_t offset, const std::vector<float>& from) {
    if (!from.empty()) std::memcpy(values.data() + offset, from.data(), from.size() * 4);
  };
  for (const AdapterSlot& slot : slots_) {
    const auto found = adapter.modules.find(slot.site.path);
    if (found == adapter.modules.end())
      fail(ErrorCode::BadInput, "the adapter has no {}; its targets do not match this run's",
           slot.site.path);
    const AdapterModule& m = found->second;
    if (m.is_embedding != (slot.site.field == Field::Embed))
      fail(ErrorCode::BadInput, "{}: the adapter is {} embedding's", slot.site.path,
           m.is_embedding ? "an" : "no");
    if (m.rank != slot.rank || m.in != slot.site.in || m.out != slot.site.out)
      fail(ErrorCode::BadInput,
           "{}: the adapter is rank {}, {} -> {}; this run needs rank {}, {} -> {}", slot.site.path,
           m.rank, m.in, m.out, slot.rank, slot.site.in, slot.site.out);
    const double scale = rules.scale(slot.site.path), run_scale = double{slot.scale};
    if (std::abs(scale - run_scale) > 1e-6 * run_scale)
      fail(ErrorCode::Usage,
           "{}: the adapter is scaled by {}, this run by {}: its lora.alpha is {} and its "
           "lora.rslora {}",
           slot.site.path, scale, run_scale, rules.alpha(slot.site.path), adapter.config.rslora);
    if (m.magnitude.empty() != (slot.magnitude_offset < 0))
      fail(ErrorCode::Usage, "{}: the adapter is {}; set lora.dora to {}", slot.site.path,
           m.magnitude.empty() ? "LoRA's, without a magnitude" : "DoRA's", !m.magnitude.empty());
    put(slot.a_offset, m.is_embedding ? turned(m.a, m.rank, m.in) : m.a);
    put(slot.b_offset, m.b);
    put(slot.magnitude_offset, m.magnitude);
  }
  for (const FullSlot& slot : full_) {
    const auto found = adapter.full.find(slot.site.path);
    if (found == adapter.full.end())
      fail(ErrorCode::Usage, "the adapter has no {}, which lora.modules_to_save names",
           slot.site.path);
    const Shape expected{slot.site.vocabulary(), slot.site.width()};
    if (!(found->second.shape == expected))
      fail(ErrorCode::BadInput, "{}: the adapter's is {}; this model's is {}", slot.site.path,
           found->second.shape.str(), expected.str());
    put(slot.offset, found->second.values);
  }
  for (const auto& [path, module] : adapter.full)
    if (std::none_of(full_.begin(), full_.end(),
                     [&](const FullSlot& slot) { return slot.site.path == path; }))
      fail(ErrorCode::Usage, "the adapter holds {} in full; name it in lora.modules_to_save",
           escaped(path));
  for (const auto& [path, module] : adapter.modules)
    if (std::none_of(slots_.begin(), slots_.end(),
                     [&](const AdapterSlot& slot) { return slot.site.path == path; }))
      fail(ErrorCode::BadInput, "the adapter's {} is no adapted linear of this run", escaped(path));
  upload(values);
}

void AdapterParameters::take_base(Field field, const TensorView& rows, int64_t first_row) {
  const int64_t bytes = element_bytes(rows.dtype), count = rows.elements();
  std::vector<float> values(static_cast<size_t>(count));
  const auto* from = static_cast<const std::byte*>(rows.data);
  const auto widen = [&]<typename T>(T element) {
    for (int64_t i = 0; i < count; ++i) {
      std::memcpy(&element, from + i * bytes, sizeof element);
      values[static_cast<size_t>(i)] = to_f32(element);
    }
  };
  if (rows.dtype == DType::F32)
    widen(float{});
  else if (rows.dtype == DType::BF16)
    widen(bf16{});
  else
    widen(f16{});
  const TensorView to = full(field).rows(first_row, first_row + rows.shape[0]);
  device_->copy_async(Queue::Compute, to.data, values.data(), count * 4);
  device_->synchronize(Queue::Compute);
}

// PEFT matches last names everywhere; where that would adapt more than this run did, full paths say
// it exactly.
std::vector<std::string> AdapterParameters::target_names() const {
  std::set<std::string> names;
  for (const AdapterSlot& slot : slots_) names.insert(last_name(slot.site.path));
  const auto matched = std::count_if(sites_.begin(), sites_.end(), [&](const AdapterSite& site) {
    return names.contains(last_name(site.path));
  });
  if (matched == std::ssize(slots_)) return {names.begin(), names.end()};
  std::vector<std::string> paths;
  for (const AdapterSlot& slot : slots_) paths.push_back(slot.site.path);
  return paths;
}

// PEFT sorts the keys of what it saves, so the patterns must say the same in any order.
void AdapterParameters::set_patterns(AdapterConfig& config) const {
  AdapterConfig sorted = config;
  std::sort(sorted.rank_pattern.begin(), sorted.rank_pattern.end());
  std::sort(sorted.alpha_pattern.begin(), sorted.alpha_pattern.end());
  const AdapterRules given(config, "adapter"), rules(sorted, "adapter");
  const bool same = std::all_of(slots_.begin(), slots_.end(), [&](const AdapterSlot& slot) {
    const std::string& path = slot.site.path;
    return given.rank(path) == rules.rank(path) && given.alpha(path) == rules.alpha(path);
  });
  if (same) return;
  config.rank_pattern.clear();
  config.alpha_pattern.clear();
  for (const AdapterSlot& slot : slots_) {
    const std::string& path = slot.site.path;
    std::string key;
    for (const char c : path) key += c == '.' ? std::string("\\.") : std::string(1, c);
    if (given.rank(path) != config.rank) config.rank_pattern.emplace_back(key, given.rank(path));
    if (given.alpha(path) != config.alpha)
      config.alpha_pattern.emplace_back(key, given.alpha(path));
  }
}

Adapter AdapterParameters::to_adapter(const std::string& base_model) const {
  const auto part = [&](int64_t offset, int64_t count) {
    std::vector<float> values(static_cast<size_t>(count));
    device_->copy_async(Queue::Compute, values.data(), values_.data() + offset * 4, count * 4);
    return values;
  };
  Adapter adapter;
  adapter.config = config_;
  adapter.config.base_model = base_model;
  adapter.config.target_regex.clear();
  adapter.config.target_modules = target_names();
  adapter.config.modules_to_save.clear();
  for (const FullSlot& slot : full_)
    adapter.config.modules_to_save.push_back(last_name(slot.site.path));
  set_patterns(adapter.config);
  for (const AdapterSlot& slot : slots_) {
    AdapterModule& m = adapter.modules[slot.site.path];
    m.rank = slot.rank;
    m.in = slot.site.in;
    m.out = slot.site.out;
    m.is_embedding = slot.site.field == Field::Embed;
    m.a = part(slot.a_offset, m.rank * m.in);
    if (m.is_embedding) {
      device_->synchronize(Queue::Compute);
      m.a = turned(m.a, m.in, m.rank);
    }
    m.b = part(slot.b_offset, m.out * m.rank);
    if (slot.magnitude_offset >= 0) m.magnitude = part(slot.magnitude_offset, m.out);
  }
  for (const FullSlot& slot : full_)
    adapter.full[slot.site.path] = {part(slot.offset, slot.site.in * slot.site.out),
                                    {slot.site.vocabulary(), slot.site.width()}};
  device_->synchronize(Queue::Compute);
  return adapter;
}

}  // namespace lema
