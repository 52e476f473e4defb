// Selection, layout and initial values of what an adapter trains.
#include "model/adapter_parameters.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <utility>

#include "core/rng.h"

namespace lema {
namespace {

std::string last_name(const std::string& path) { return path.substr(path.rfind('.') + 1); }

bool is_end(const AdapterSite& site) { return site.block < 0; }

// An embedding maps its rows' numbers to them; a head maps to a row each.
int64_t vocabulary(const AdapterSite& site) {
  return site.field == Field::Embed ? site.in : site.out;
}
int64_t width(const AdapterSite& site) { return site.field == Field::Embed ? site.out : site.in; }

std::set<std::string> last_names(const std::vector<AdapterSite>& sites) {
  std::set<std::string> names;
  for (const AdapterSite& site : sites) names.insert(last_name(site.path));
  return names;
}

}  // namespace

void AdapterParameters::set_sites(const PieceTable& table) {
  sites_ = adapter_sites(table.spec);
  block_count_ = static_cast<int64_t>(table.blocks.size());
  config_.fan_in_fan_out = table.spec.linear_transposed;
  index_.assign(static_cast<size_t>(block_count_), std::vector<int32_t>(kFieldCount, -1));
  normed_.assign(static_cast<size_t>(block_count_), false);
}

AdapterParameters::AdapterParameters(const PieceTable& table, const AdapterOptions& options)
    : config_(options.config) {
  set_sites(table);
  ModuleChoice targets(options.targets, "lora.targets"),
      excluded(options.exclude_modules, "lora.exclude_modules");
  const bool all_linear = options.targets == std::vector<std::string>{"all-linear"};
  const std::vector<bool> blocks = chosen_blocks(options.layers, block_count_);
  ModuleChoice saved(config_.modules_to_save, "lora.modules_to_save");
  const AdapterRules rules(config_, "lora", ErrorCode::Usage);
  for (const AdapterSite& site : sites_) {
    if (is_end(site) && saved.matches(site.path)) {
      add_full(site);
      continue;
    }
    const bool excludes = excluded.matches(site.path);
    const bool names = all_linear ? !is_end(site) : targets.matches(site.path);
    if (!names || excludes) continue;
    if (is_end(site))
      fail(ErrorCode::Usage,
           "lora.targets: {} cannot have an adapter; the linears of the blocks can", site.path);
    if (blocks[static_cast<size_t>(site.block)])
      add_slot(site, rules.rank(site.path), rules.scale(site.path));
  }
  const auto known = [&] { return fmt::format("{}", fmt::join(last_names(sites_), ", ")); };
  if (const std::string* name = all_linear ? nullptr : targets.unmatched())
    fail(ErrorCode::Usage,
         "lora.targets: \"{}\" is no module of this model; it has {}, or all-linear",
         escaped(*name), known());
  if (const std::string* name = excluded.unmatched())
    fail(ErrorCode::Usage, "lora.exclude_modules: \"{}\" is no module of this model; it has {}",
         escaped(*name), known());
  const std::string* unsaved = saved.unmatched();
  if (!unsaved && full_.empty() && !config_.modules_to_save.empty())
    unsaved = &config_.modules_to_save.front();
  if (unsaved)
    fail(ErrorCode::Usage,
         "lora.modules_to_save: \"{}\" cannot be trained in full; {} and {} can",
         escaped(*unsaved), sites_.front().path, sites_.back().path);
  if (slots_.empty())
    fail(ErrorCode::Usage, "lora.targets: no module is left to adapt; the model has {}", known());
  if (const std::string key = rules.unmatched(); !key.empty())
    fail(ErrorCode::Usage, "lora.{} decides about no adapted module", key);
}

AdapterParameters::AdapterParameters(const PieceTable& table, const Adapter& adapter,
                                     const std::string& place)
    : config_(adapter.config) {
  set_sites(table);
  check_supported(adapter, place);
  const AdapterRules rules(config_, place);
  check_ranks(adapter, rules, place);
  const auto site_of = [&](const std::string& path) {
    const auto site = std::find_if(sites_.begin(), sites_.end(),
                                   [&](const AdapterSite& s) { return s.path == path; });
    if (site == sites_.end())
      fail(ErrorCode::BadInput, "{}: {} is no module of this model; it has {}", place,
           escaped(path), fmt::join(last_names(sites_), ", "));
    return *site;
  };
  for (const auto& [path, module] : adapter.modules) {
    const AdapterSite site = site_of(path);
    if (is_end(site))
      fail(ErrorCode::BadInput,
           "{}: an adapter of {} is not supported here; it is over the linears of "
           "blocks",
           place, path);
    if (module.in != site.in || module.out != site.out)
      fail(ErrorCode::BadInput, "{}: {} maps {} to {} numbers; the model's maps {} to {}", place,
           path, module.in, module.out, site.in, site.out);
  }
  for (const auto& [path, module] : adapter.full) {
    const AdapterSite site = site_of(path);
    if (!is_end(site))
      fail(ErrorCode::BadInput, "{}: modules_to_save: {} in full is not supported; {} and {} are",
           place, path, sites_.front().path, sites_.back().path);
    const Shape expected{vocabulary(site), width(site)};
    if (!(module.shape == expected))
      fail(ErrorCode::BadInput, "{}: modules_to_save: {} is {}; the model's is {}", place, path,
           module.shape.str(), expected.str());
  }
  // In the model's order, which is that of a fresh adapter.
  for (const AdapterSite& site : sites_) {
    if (adapter.modules.contains(site.path))
      add_slot(site, rules.rank(site.path), rules.scale(site.path));
    if (adapter.full.contains(site.path)) add_full(site);
  }
}

void AdapterParameters::add_full(const AdapterSite& site) {
  full_.push_back({site, parameter_count_});
  parameter_count_ += site.in * site.out;
}

bool AdapterParameters::is_full(Field field) const {
  return std::any_of(full_.begin(), full_.end(),
                     [&](const FullSlot& slot) { return slot.site.field == field; });
}

TensorView AdapterParameters::full_part(const Buffer& buffer, Field field) const {
  for (const FullSlot& slot : full_)
    if (slot.site.field == field)
      return at(buffer, slot.offset, {vocabulary(slot.site), width(slot.site)});
  return {};
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

void AdapterParameters::add_slot(const AdapterSite& site, int64_t rank, double scale) {
  AdapterSlot slot;
  slot.site = site;
  slot.rank = rank;
  slot.scale = static_cast<float>(scale);
  const auto take = [&](int64_t count) {
    return std::exchange(parameter_count_, parameter_count_ + count);
  };
  slot.a_offset = take(rank * site.in);
  slot.b_offset = take(site.out * rank);
  if (config_.dora) {
    slot.magnitude_offset = take(site.out);
    slot.norm_offset = std::exchange(norm_count_, norm_count_ + site.out);
  }
  index_[static_cast<size_t>(site.block)][static_cast<size_t>(site.field)] =
      static_cast<int32_t>(slots_.size());
  slots_.push_back(std::move(slot));
}

void AdapterParameters::allocate(Device& device, bool trainable) {
  device_ = &device;
  values_ = device.allocate(parameter_count_ * 4, "adapter");
  if (trainable) gradients_ = device.allocate(parameter_count_ * 4, "adapter gradients");
  if (norm_count_ > 0) norms_ = device.allocate(norm_count_ * 4, "adapted row norms");
}

void AdapterParameters::initialise(uint64_t seed) {
  std::vector<float> values(static_cast<size_t>(parameter_count_), 0.0f);
  for (size_t s = 0; s < slots_.size(); ++s) {
    const AdapterSlot& slot = slots_[s];
    const auto words = [&](int64_t counter) {
      return philox(seed, RngStream::AdapterInit, static_cast<uint64_t>(counter),
                    static_cast<uint32_t>(s));
    };
    float* a = values.data() + slot.a_offset;
    const float bound = 1.0f / std::sqrt(static_cast<float>(slot.site.in));
    for (int64_t i = 0; i < slot.rank * slot.site.in; ++i)
      a[i] = bound * (2 * uniform(words(i / 4)[static_cast<size_t>(i % 4)]) - 1);
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
    put(slot.a_offset, m.a);
    put(slot.b_offset, m.b);
    put(slot.magnitude_offset, m.magnitude);
  }
  for (const FullSlot& slot : full_) {
    const auto found = adapter.full.find(slot.site.path);
    if (found == adapter.full.end())
      fail(ErrorCode::Usage, "the adapter has no {}, which lora.modules_to_save names",
           slot.site.path);
    const Shape expected{vocabulary(slot.site), width(slot.site)};
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

void AdapterParameters::update_norms(Ops& ops, const WeightViews& weights, int64_t block) {
  if (norm_count_ == 0 || normed_[static_cast<size_t>(block)]) return;
  for (const AdapterSlot& slot : slots_) {
    if (slot.site.block != block) continue;
    const LoraView lora = view(block, slot.site.field);
    ops.lora_norm(lora.norm, {weights[slot.site.field], slot.site.transposed, {}, &lora});
  }
  normed_[static_cast<size_t>(block)] = true;
}

void AdapterParameters::take_magnitudes(int64_t block) {
  std::vector<float> norms;
  for (const AdapterSlot& slot : slots_) {
    if (slot.site.block != block || slot.magnitude_offset < 0) continue;
    norms.resize(static_cast<size_t>(slot.site.out));
    const LoraView lora = view(block, slot.site.field);
    device_->copy_async(Queue::Compute, norms.data(), lora.norm.data, slot.site.out * 4);
    device_->copy_async(Queue::Compute, lora.magnitude.data, lora.norm.data, slot.site.out * 4);
    device_->synchronize(Queue::Compute);
    const auto zero = std::find(norms.begin(), norms.end(), 0.0f);
    if (zero != norms.end())
      fail(ErrorCode::BadInput,
           "{}: output {} has only zeros for weights, so DoRA finds no direction; set "
           "lora.exclude_modules to the module or lora.dora to false",
           slot.site.tensor, zero - norms.begin());
  }
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
  std::vector<float> values(static_cast<size_t>(parameter_count_));
  device_->copy_async(Queue::Compute, values.data(), values_.data(), parameter_count_ * 4);
  device_->synchronize(Queue::Compute);
  const auto part = [&](int64_t offset, int64_t count) {
    const float* begin = values.data() + offset;
    return std::vector<float>(begin, begin + count);
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
    m.a = part(slot.a_offset, m.rank * m.in);
    m.b = part(slot.b_offset, m.out * m.rank);
    if (slot.magnitude_offset >= 0) m.magnitude = part(slot.magnitude_offset, m.out);
  }
  for (const FullSlot& slot : full_)
    adapter.full[slot.site.path] = {part(slot.offset, slot.site.in * slot.site.out),
                                    {vocabulary(slot.site), width(slot.site)}};
  return adapter;
}

TensorView AdapterParameters::at(const Buffer& buffer, int64_t offset, const Shape& shape) const {
  if (buffer.bytes() == 0 || offset < 0) return {};
  return {buffer.data() + offset * 4, DType::F32, shape};
}

LoraView AdapterParameters::view(int64_t block, Field field) const {
  const int32_t index = index_[static_cast<size_t>(block)][static_cast<size_t>(field)];
  if (index < 0) return {};
  const AdapterSlot& slot = slots_[static_cast<size_t>(index)];
  const int64_t in = slot.site.in, out = slot.site.out;
  LoraView view;
  view.a = at(values_, slot.a_offset, {slot.rank, in});
  view.b = at(values_, slot.b_offset, {out, slot.rank});
  view.da = at(gradients_, slot.a_offset, {slot.rank, in});
  view.db = at(gradients_, slot.b_offset, {out, slot.rank});
  view.magnitude = at(values_, slot.magnitude_offset, {out});
  view.d_magnitude = at(gradients_, slot.magnitude_offset, {out});
  view.norm = at(norms_, slot.norm_offset, {out});
  view.scale = slot.scale;
  if (!dropout_keys_.empty()) {
    view.dropout = static_cast<float>(config_.dropout);
    view.dropout_key = dropout_keys_[static_cast<size_t>(index)];
  }
  return view;
}

void AdapterParameters::set_step(uint64_t seed, int64_t step, bool training) {
  dropout_keys_.clear();
  if (!training || config_.dropout == 0) return;
  for (size_t s = 0; s < slots_.size(); ++s) {
    const auto words =
        philox(seed, RngStream::Dropout, static_cast<uint64_t>(step), static_cast<uint32_t>(s));
    dropout_keys_.push_back(uint64_t{words[0]} << 32 | words[1]);
  }
}

int64_t AdapterParameters::largest_rank() const {
  int64_t rank = 0;
  for (const AdapterSlot& slot : slots_) rank = std::max(rank, slot.rank);
  return rank;
}

int64_t AdapterParameters::lowest_block() const {
  if (is_full(Field::Embed)) return -1;
  int64_t lowest = block_count_;
  for (const AdapterSlot& slot : slots_) lowest = std::min(lowest, slot.site.block);
  return lowest;
}

std::vector<ParameterRun> AdapterParameters::runs(double plus_ratio) const {
  if (plus_ratio == 1) return {{0, parameter_count_, 1}};
  std::vector<ParameterRun> runs;
  for (const AdapterSlot& slot : slots_) {
    runs.push_back({slot.a_offset, slot.rank * slot.site.in, 1});
    const int64_t magnitudes = slot.magnitude_offset < 0 ? 0 : slot.site.out;
    runs.push_back({slot.b_offset, slot.rank * slot.site.out + magnitudes, plus_ratio});
  }
  for (const FullSlot& slot : full_)
    runs.push_back({slot.offset, slot.site.in * slot.site.out, 1});
  return runs;
}

TensorView AdapterParameters::values() const {
  return {values_.data(), DType::F32, {parameter_count_}};
}

TensorView AdapterParameters::gradients() const {
  if (gradients_.bytes() == 0) return {};
  return {gradients_.data(), DType::F32, {parameter_count_}};
}

}  // namespace lema
