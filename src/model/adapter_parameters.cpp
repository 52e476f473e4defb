// Selection, layout and initial values of LoRA matrices.
#include "model/adapter_parameters.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "core/rng.h"

namespace lema {
namespace {

bool matches(const std::string& module, const std::string& target) {
  return module == target || module.ends_with("." + target);
}

std::string last_name(const std::string& module) { return module.substr(module.rfind('.') + 1); }

}  // namespace

AdapterParameters::AdapterParameters(const PieceTable& table, const AdapterOptions& options)
    : options_(options), transposed_(table.spec.linear_transposed) {
  std::set<std::string> unmatched(options.targets.begin(), options.targets.end());
  const bool all = unmatched.erase("all-linear") > 0;
  std::set<std::string> known;
  for (size_t block = 0; block < table.blocks.size(); ++block) {
    index_.emplace_back(kFieldCount, -1);
    for (const Piece& piece : table.blocks[block].pieces) {
      for (const PlacedField& field : piece.fields) {
        if (field.module.empty()) continue;
        linears_.push_back(field.module);
        known.insert(last_name(field.module));
        bool wanted = all;
        for (const std::string& target : options.targets) {
          if (!matches(field.module, target)) continue;
          wanted = true;
          unmatched.erase(target);
        }
        if (!wanted) continue;
        AdapterSlot slot{
            field.module, static_cast<int64_t>(block), field.field, options.rank, 0, 0, 0, 0, 0};
        slot.out = field.shape[transposed_ ? 1 : 0];
        slot.in = field.shape[transposed_ ? 0 : 1];
        slot.scale = static_cast<float>(options.alpha / static_cast<double>(options.rank));
        slot.a_offset = parameter_count_;
        slot.b_offset = slot.a_offset + slot.rank * slot.in;
        parameter_count_ = slot.b_offset + slot.out * slot.rank;
        index_.back()[static_cast<size_t>(field.field)] = static_cast<int32_t>(slots_.size());
        slots_.push_back(std::move(slot));
      }
    }
  }
  if (!unmatched.empty())
    fail(ErrorCode::Usage,
         "lora.targets: \"{}\" is no linear of this model; it has {}, or all-linear",
         escaped(*unmatched.begin()), fmt::join(known, ", "));
}

void AdapterParameters::allocate(Device& device, bool trainable) {
  device_ = &device;
  values_ = device.allocate(parameter_count_ * 4, "adapter");
  if (trainable) gradients_ = device.allocate(parameter_count_ * 4, "adapter gradients");
}

void AdapterParameters::initialise(uint64_t seed) {
  std::vector<float> values(static_cast<size_t>(parameter_count_), 0.0f);
  for (size_t s = 0; s < slots_.size(); ++s) {
    const AdapterSlot& slot = slots_[s];
    const float bound = 1.0f / std::sqrt(static_cast<float>(slot.in));
    for (int64_t i = 0; i < slot.rank * slot.in; ++i) {
      const auto words = philox(seed, RngStream::AdapterInit, static_cast<uint64_t>(i / 4),
                                static_cast<uint32_t>(s));
      values[static_cast<size_t>(slot.a_offset + i)] =
          bound * (2 * uniform(words[static_cast<size_t>(i % 4)]) - 1);
    }
  }
  device_->copy_async(Queue::Compute, values_.data(), values.data(), parameter_count_ * 4);
  device_->synchronize(Queue::Compute);
}

void AdapterParameters::load(const Adapter& adapter) {
  const double scaling = options_.alpha / static_cast<double>(options_.rank);
  if (std::abs(adapter.config.scaling() - scaling) > 1e-6 * scaling)
    fail(ErrorCode::Usage,
         "the adapter was trained with alpha/rank {}, this run has {}: set lora.alpha to {}",
         adapter.config.scaling(), scaling,
         adapter.config.scaling() * static_cast<double>(options_.rank));
  std::vector<float> values(static_cast<size_t>(parameter_count_), 0.0f);
  for (const AdapterSlot& slot : slots_) {
    const auto found = adapter.modules.find(slot.module);
    if (found == adapter.modules.end())
      fail(ErrorCode::BadInput, "the adapter has no {}; its targets do not match this run's",
           slot.module);
    const AdapterModule& m = found->second;
    if (m.rank != slot.rank || m.in != slot.in || m.out != slot.out)
      fail(ErrorCode::BadInput,
           "{}: the adapter is rank {}, {} -> {}; this run needs rank {}, {} -> {}", slot.module,
           m.rank, m.in, m.out, slot.rank, slot.in, slot.out);
    std::memcpy(values.data() + slot.a_offset, m.a.data(), m.a.size() * 4);
    std::memcpy(values.data() + slot.b_offset, m.b.data(), m.b.size() * 4);
  }
  if (adapter.modules.size() != slots_.size()) {
    for (const auto& [module, unused] : adapter.modules)
      if (std::none_of(slots_.begin(), slots_.end(),
                       [&](const AdapterSlot& slot) { return slot.module == module; }))
        fail(ErrorCode::BadInput, "the adapter's {} is no adapted linear of this model",
             escaped(module));
  }
  device_->copy_async(Queue::Compute, values_.data(), values.data(), parameter_count_ * 4);
  device_->synchronize(Queue::Compute);
}

Adapter AdapterParameters::to_adapter(const std::string& base_model) const {
  std::vector<float> values(static_cast<size_t>(parameter_count_));
  device_->copy_async(Queue::Compute, values.data(), values_.data(), parameter_count_ * 4);
  device_->synchronize(Queue::Compute);
  Adapter adapter;
  adapter.config.base_model = base_model;
  adapter.config.rank = options_.rank;
  adapter.config.alpha = options_.alpha;
  adapter.config.dropout = options_.dropout;
  adapter.config.fan_in_fan_out = transposed_;
  std::set<std::string> targets;
  for (const AdapterSlot& slot : slots_) {
    AdapterModule& m = adapter.modules[slot.module];
    m.rank = slot.rank;
    m.in = slot.in;
    m.out = slot.out;
    m.a.assign(values.data() + slot.a_offset, values.data() + slot.b_offset);
    m.b.assign(values.data() + slot.b_offset, values.data() + slot.b_offset + slot.out * slot.rank);
    targets.insert(last_name(slot.module));
  }
  // PEFT matches last names everywhere; where that would adapt more than this run did, full paths
  // say it exactly.
  const auto matched =
      std::count_if(linears_.begin(), linears_.end(),
                    [&](const std::string& module) { return targets.contains(last_name(module)); });
  if (matched == static_cast<int64_t>(slots_.size())) {
    adapter.config.target_modules.assign(targets.begin(), targets.end());
  } else {
    for (const AdapterSlot& slot : slots_) adapter.config.target_modules.push_back(slot.module);
  }
  return adapter;
}

LoraView AdapterParameters::view(int64_t block, Field field) const {
  const int32_t index = index_[static_cast<size_t>(block)][static_cast<size_t>(field)];
  if (index < 0) return {};
  const AdapterSlot& slot = slots_[static_cast<size_t>(index)];
  const auto at = [&](const Buffer& buffer, int64_t offset, int64_t rows, int64_t cols) {
    if (buffer.bytes() == 0) return TensorView();
    return TensorView(buffer.data() + offset * 4, DType::F32, {rows, cols});
  };
  LoraView view;
  view.a = at(values_, slot.a_offset, slot.rank, slot.in);
  view.b = at(values_, slot.b_offset, slot.out, slot.rank);
  view.da = at(gradients_, slot.a_offset, slot.rank, slot.in);
  view.db = at(gradients_, slot.b_offset, slot.out, slot.rank);
  view.scale = slot.scale;
  if (!dropout_keys_.empty()) {
    view.dropout = static_cast<float>(options_.dropout);
    view.dropout_key = dropout_keys_[static_cast<size_t>(index)];
  }
  return view;
}

void AdapterParameters::set_step(uint64_t seed, int64_t step, bool training) {
  dropout_keys_.clear();
  if (!training || options_.dropout == 0) return;
  for (size_t s = 0; s < slots_.size(); ++s) {
    const auto words =
        philox(seed, RngStream::Dropout, static_cast<uint64_t>(step), static_cast<uint32_t>(s));
    dropout_keys_.push_back(uint64_t{words[0]} << 32 | words[1]);
  }
}

int64_t AdapterParameters::lowest_block() const {
  int64_t lowest = static_cast<int64_t>(index_.size());
  for (const AdapterSlot& slot : slots_) lowest = std::min(lowest, slot.block);
  return lowest;
}

TensorView AdapterParameters::values() const {
  return {values_.data(), DType::F32, {parameter_count_}};
}

TensorView AdapterParameters::gradients() const {
  if (gradients_.bytes() == 0) return {};
  return {gradients_.data(), DType::F32, {parameter_count_}};
}

AdapterOptions options_of(const AdapterConfig& config) {
  AdapterOptions options{config.rank, config.alpha, config.dropout, config.target_modules};
  if (!config.target_regex.empty()) options.targets = {config.target_regex};
  return options;
}

}  // namespace lema
