// Selection, layout and views of what an adapter trains. Values come and go in adapter_values.cpp.
#include "model/adapter_parameters.h"

#include <algorithm>
#include <set>
#include <utility>

#include "core/rng.h"

namespace lema {
namespace {

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
  index_.assign(static_cast<size_t>(block_count_ + 1), std::vector<int32_t>(kFieldCount, -1));
  normed_.assign(static_cast<size_t>(block_count_), false);
}

AdapterParameters::AdapterParameters(const PieceTable& table, const AdapterOptions& options)
    : config_(options.config) {
  set_sites(table);
  ModuleChoice targets(options.targets, "lora.targets"),
      excluded(options.exclude_modules, "lora.exclude_modules");
  const bool all_linear = options.targets == std::vector<std::string>{kAllLinear};
  const std::vector<bool> blocks = chosen_blocks(options.layers, block_count_);
  const bool all_layers = options.layers == std::vector<std::string>{"all"};
  ModuleChoice saved(config_.modules_to_save, "lora.modules_to_save");
  const AdapterRules rules(config_, "lora", ErrorCode::Usage);
  for (const AdapterSite& site : sites_) {
    if (site.is_end() && saved.matches(site.path)) {
      add_full(site);
      continue;
    }
    const bool excludes = excluded.matches(site.path);
    const bool names = all_linear ? !site.is_end() : targets.matches(site.path);
    if (!names || excludes) continue;
    if (site.is_end() && config_.dora)
      fail(ErrorCode::Usage, "lora.dora: {} cannot have a magnitude; take it out of lora.targets",
           site.path);
    // A path without a block's number is in no chosen layer, as PEFT has it.
    if (site.is_end() ? all_layers : blocks[static_cast<size_t>(site.block)])
      add_slot(site, rules.rank(site.path), rules.scale(site.path));
  }
  const auto names_saved = [&](const std::string& entry) {
    const ModuleChoice choice({entry}, "lora.targets");
    return std::any_of(full_.begin(), full_.end(),
                       [&](const FullSlot& slot) { return choice.matches(slot.site.path); });
  };
  const auto known = [&] { return fmt::format("{}", fmt::join(last_names(sites_), ", ")); };
  if (const std::string* name = all_linear ? nullptr : targets.unmatched())
    fail(ErrorCode::Usage, "lora.targets: \"{}\" {}", escaped(*name),
         names_saved(*name)
             ? "is named by lora.modules_to_save too, which trains it in full; take it out of one"
             : fmt::format("is no module of this model; it has {}, or all-linear", known()));
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
    : config_(adapter.config), place_(place + ": ") {
  set_sites(table);
  const AdapterRules rules(config_, place);
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
    if (module.is_embedding != (site.field == Field::Embed))
      fail(ErrorCode::BadInput, "{}: {} is {} embedding", place, path,
           module.is_embedding ? "no" : "an");
    if (module.in != site.in || module.out != site.out)
      fail(ErrorCode::BadInput, "{}: {} maps {} to {} numbers; the model's maps {} to {}", place,
           path, module.in, module.out, site.in, site.out);
  }
  for (const auto& [path, module] : adapter.full) {
    const AdapterSite site = site_of(path);
    if (!site.is_end())
      fail(ErrorCode::BadInput, "{}: modules_to_save: {} in full is not supported; {} and {} are",
           place, path, sites_.front().path, sites_.back().path);
    const Shape expected{site.vocabulary(), site.width()};
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
      return at(buffer, slot.offset, {slot.site.vocabulary(), slot.site.width()});
  return {};
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
  const int64_t block = site.is_end() ? block_count_ : site.block;
  index_[static_cast<size_t>(block)][static_cast<size_t>(site.field)] =
      static_cast<int32_t>(slots_.size());
  slots_.push_back(std::move(slot));
}

void AdapterParameters::allocate(Device& device, bool trainable) {
  device_ = &device;
  values_ = device.allocate(parameter_count_ * 4, "adapter");
  if (trainable) gradients_ = device.allocate(parameter_count_ * 4, "adapter gradients");
  if (norm_count_ > 0) norms_ = device.allocate(norm_count_ * 4, "adapted row norms");
  if (identity_bytes() == 0) return;
  const int64_t R = std::max(head_rank(), embed_rank()), zeros = R * sites_.front().width();
  std::vector<float> values(static_cast<size_t>(identity_bytes() / 4), 0.0f);
  for (const auto& [rank, at] : {std::pair(head_rank(), zeros), {embed_rank(), zeros + R * R}})
    for (int64_t r = 0; r < rank; ++r) values[static_cast<size_t>(at + r * rank + r)] = 1;
  identity_ = device.allocate(identity_bytes(), "identities of the ends' adapters");
  device.copy_async(Queue::Compute, identity_.data(), values.data(), identity_bytes());
  device.synchronize(Queue::Compute);
}

// Zeros, the head's identity, the embedding's, and the gradient of either.
int64_t AdapterParameters::identity_bytes() const {
  const int64_t R = std::max(head_rank(), embed_rank());
  return (R * sites_.front().width() + 3 * R * R) * 4;
}

LoraView AdapterParameters::head_half(int64_t first_row) const {
  LoraView half = view(-1, Field::Head);
  const int64_t R = head_rank(), largest = std::max(R, embed_rank());
  const int64_t identity = largest * sites_.front().width();
  half.b = at(identity_, identity, {R, R});
  if (half.da) half.db = at(identity_, identity + 2 * largest * largest, {R, R});
  half.first_row = first_row;
  return half;
}

LoraView AdapterParameters::embed_half() const {
  LoraView half = view(-1, Field::Embed);
  const int64_t R = embed_rank(), largest = std::max(R, head_rank());
  const int64_t identity = largest * sites_.front().width() + largest * largest;
  half.a = at(identity_, identity, {R, R});
  if (half.db) half.da = at(identity_, identity + largest * largest, {R, R});
  half.dropout = 0;  // ids have none
  return half;
}

LinearPart AdapterParameters::end_linear(const LoraView& half) const {
  return {at(identity_, 0, {half.b.shape[0], half.a.shape[1]}), false, {}, &half};
}

void AdapterParameters::values_changed() {
  normed_.assign(normed_.size(), false);
  normed_head_rows_ = 0;
}

void AdapterParameters::check_norms(const AdapterSlot& slot, const TensorView& view,
                                    int64_t first_row) const {
  if (norms_checked_) return;
  std::vector<float> norms(static_cast<size_t>(view.elements()));
  device_->copy_async(Queue::Compute, norms.data(), view.data, view.bytes());
  device_->synchronize(Queue::Compute);
  const auto zero = std::find(norms.begin(), norms.end(), 0.0f);
  if (zero != norms.end())
    fail(ErrorCode::BadInput,
         "{}{}: output {} has only zeros for weights, so DoRA finds no direction; leave the module "
         "out or train without DoRA",
         place_, slot.site.tensor, first_row + (zero - norms.begin()));
}

void AdapterParameters::update_norms(Ops& ops, const WeightViews& weights, int64_t block) {
  if (norm_count_ == 0 || normed_[static_cast<size_t>(block)]) return;
  for (const AdapterSlot& slot : slots_) {
    if (slot.site.block != block) continue;
    const LoraView lora = view(block, slot.site.field);
    ops.lora_norm(lora.norm, {weights[slot.site.field], slot.site.transposed, {}, &lora});
    check_norms(slot, lora.norm, 0);
  }
  normed_[static_cast<size_t>(block)] = true;
  if (block == block_count_ - 1 && head_rank() == 0) norms_checked_ = true;
}

LoraView AdapterParameters::head_rows(Ops& ops, const TensorView& weight, int64_t v_begin) {
  LoraView lora = view(-1, Field::Head);
  if (!lora.a) return lora;
  const int64_t end = v_begin + weight.shape[0];
  for (TensorView* rows : {&lora.b, &lora.db, &lora.magnitude, &lora.d_magnitude, &lora.norm})
    if (*rows) *rows = rows->rows(v_begin, end);
  if (lora.magnitude && normed_head_rows_ < end) {
    ops.lora_norm(lora.norm, {weight, false, {}, &lora});
    check_norms(*slot_of(-1, Field::Head), lora.norm, v_begin);
    normed_head_rows_ = end;
  }
  return lora;
}

int64_t AdapterParameters::rank_of(Field end) const {
  const AdapterSlot* slot = slot_of(-1, end);
  return slot ? slot->rank : 0;
}

void AdapterParameters::take_magnitudes(int64_t block) {
  for (const AdapterSlot& slot : slots_) {
    if (slot.site.block != block || slot.magnitude_offset < 0) continue;
    const LoraView lora = view(block, slot.site.field);
    device_->copy_async(Queue::Compute, lora.magnitude.data, lora.norm.data, slot.site.out * 4);
  }
  device_->synchronize(Queue::Compute);
}

TensorView AdapterParameters::at(const Buffer& buffer, int64_t offset, const Shape& shape) const {
  if (buffer.bytes() == 0 || offset < 0) return {};
  return {buffer.data() + offset * 4, DType::F32, shape};
}

const AdapterSlot* AdapterParameters::slot_of(int64_t block, Field field) const {
  const auto row = static_cast<size_t>(block < 0 ? block_count_ : block);
  const int32_t index = index_[row][static_cast<size_t>(field)];
  return index < 0 ? nullptr : &slots_[static_cast<size_t>(index)];
}

LoraView AdapterParameters::view(int64_t block, Field field) const {
  const AdapterSlot* found = slot_of(block, field);
  if (!found) return {};
  const AdapterSlot& slot = *found;
  const int64_t in = slot.site.in, out = slot.site.out;
  LoraView view;
  const bool by_token = field == Field::Embed;
  view.a = at(values_, slot.a_offset, by_token ? Shape{in, slot.rank} : Shape{slot.rank, in});
  view.b = at(values_, slot.b_offset, {out, slot.rank});
  view.da = at(gradients_, slot.a_offset, view.a.shape);
  view.db = at(gradients_, slot.b_offset, {out, slot.rank});
  view.magnitude = at(values_, slot.magnitude_offset, {out});
  view.d_magnitude = at(gradients_, slot.magnitude_offset, {out});
  view.norm = at(norms_, slot.norm_offset, {out});
  view.scale = slot.scale;
  if (!dropout_keys_.empty()) {
    view.dropout = static_cast<float>(config_.dropout);
    view.dropout_key = dropout_keys_[static_cast<size_t>(&slot - slots_.data())];
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
  if (is_full(Field::Embed) || embed_rank() > 0) return -1;
  int64_t lowest = block_count_;
  for (const AdapterSlot& slot : slots_)
    if (!slot.site.is_end()) lowest = std::min(lowest, slot.site.block);
  return lowest;
}

std::vector<ParameterRun> AdapterParameters::runs(double plus_ratio,
                                                  double embedding_factor) const {
  if (plus_ratio == 1) return {{0, parameter_count_, 1}};
  std::vector<ParameterRun> runs;
  for (const AdapterSlot& slot : slots_) {
    const bool is_embedding = slot.site.field == Field::Embed;
    runs.push_back(
        {slot.a_offset, slot.rank * slot.site.in, is_embedding ? embedding_factor : 1});
    const int64_t magnitudes = slot.magnitude_offset < 0 ? 0 : slot.site.out;
    runs.push_back({slot.b_offset, slot.rank * slot.site.out + magnitudes,
                    is_embedding ? embedding_factor : plus_ratio});
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
