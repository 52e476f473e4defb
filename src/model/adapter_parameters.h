// AdapterParameters: the LoRA pairs, DoRA magnitudes and fully trained matrices (modules_to_save)
// of a model in one flat f32 buffer, with gradients in a second one of the same layout, so that the
// optimizer is a few passes and a checkpoint is one array. Held by the trainer and by everyone who
// applies an adapter.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/peft_adapter.h"
#include "layout/piece_table.h"
#include "model/adapter_rules.h"
#include "ops.h"

namespace lema {

// A fresh adapter: rank, alpha, patterns, dropout, rsLoRA, DoRA and modules_to_save of `config`,
// over the modules that these settings choose.
struct AdapterOptions {
  AdapterConfig config;
  std::vector<std::string> targets = {"all-linear"};  // or as ModuleChoice takes them
  std::vector<std::string> exclude_modules;           // tested first
  std::vector<std::string> layers = {"all"};          // as chosen_blocks takes them
};

// One adapted linear: A (rank, in), B (out, rank), with DoRA a magnitude (out), in this order. Of
// the embedding A lies as (in, rank), a row for each token.
struct AdapterSlot {
  AdapterSite site;
  int64_t rank = 0;
  int64_t a_offset = 0, b_offset = 0;  // in floats
  int64_t magnitude_offset = -1;       // -1: no DoRA
  int64_t norm_offset = -1;            // among the norms
  float scale = 0;
};

// A copy of the embedding or the head that is trained in full in the base matrix's place: (out,
// in). In a model that ties the two each has a copy of its own, as in PEFT without
// ensure_weight_tying.
struct FullSlot {
  AdapterSite site;
  int64_t offset = 0;  // in floats
};

// Parameters that are updated alike: [offset, offset + count).
struct ParameterRun {
  int64_t offset = 0, count = 0;
  double lr_factor = 1;  // of the step's learning rate
};

class AdapterParameters {
 public:
  // A fresh adapter. Usage error naming the setting that fits nothing in this model, or that the
  // model cannot have.
  AdapterParameters(const PieceTable& table, const AdapterOptions& options);
  // An adapter of open_adapter, with its own modules, ranks and scales. BadInput, with `place` in
  // front, when it does not fit the model.
  AdapterParameters(const PieceTable& table, const Adapter& adapter, const std::string& place);

  // Allocates values, and gradients when `trainable`; everything below needs it. `device` outlives
  // this.
  void allocate(Device& device, bool trainable);

  // A uniform in +-1/sqrt(in) (Kaiming, a = sqrt 5), B zero, from the seed alone; of the embedding
  // A zero, B normal. Magnitudes follow by take_magnitudes, full matrices by take_base.
  void initialise(uint64_t seed);
  // Takes a PEFT adapter's values; BadInput when its modules or shapes are not exactly these, Usage
  // when it is scaled otherwise.
  void load(const Adapter& adapter);
  // The values as a PEFT adapter. Waits for the compute queue.
  Adapter to_adapter(const std::string& base_model) const;

  // DoRA: brings the norms of a block up to date with its weights and the values; at every visit of
  // a block before its forward pass, and no work unless values_changed() since. Nothing for others.
  // BadInput, the first time, for an adapted weight with a row of zeros, which has no direction.
  void update_norms(Ops& ops, const WeightViews& weights, int64_t block);
  void values_changed();
  // The block's norms become its magnitudes, which makes the adapted weight the base weight's.
  void take_magnitudes(int64_t block);

  // Rows from `first_row` on of a full matrix become those of the base's, which lie in host memory.
  void take_base(Field field, const TensorView& rows, int64_t first_row);
  // The embedding or head that takes the base's place, (vocabulary, C) f32, and its gradient; null
  // where it is frozen.
  TensorView full(Field field) const { return full_part(values_, field); }
  TensorView full_gradient(Field field) const { return full_part(gradients_, field); }
  bool is_full(Field field) const;

  // The view for one linear of a block (-1: the ends), with a null `a` where it is not adapted. The
  // embedding's a is (V, R).
  LoraView view(int64_t block, Field field) const;
  // The head's view for some of its rows, `weight` (rows, C) from row v_begin on; norms as
  // update_norms, for chunks in ascending order.
  LoraView head_rows(Ops& ops, const TensorView& weight, int64_t v_begin);
  // Halves of an end's pair as linears of Ops (end_linear), whose other half is an identity: the
  // head's first, h = scale drop(x) A^T for rows from first_row on, and the embedding's second,
  // scale h B^T.
  LoraView head_half(int64_t first_row) const;
  LoraView embed_half() const;
  // A linear of zeros that carries such a half.
  LinearPart end_linear(const LoraView& half) const;
  int64_t head_rank() const { return rank_of(Field::Head); }  // 0: not adapted
  int64_t embed_rank() const { return rank_of(Field::Embed); }
  // Dropout of the coming passes: masks are a function of (seed, step, module); training off drops
  // nothing.
  void set_step(uint64_t seed, int64_t step, bool training);

  const std::vector<AdapterSlot>& slots() const { return slots_; }
  int64_t parameter_count() const { return parameter_count_; }
  int64_t norm_count() const { return norm_count_; }  // rows of all slots with magnitudes
  int64_t identity_bytes() const;                     // of what makes halves linears
  int64_t largest_rank() const;
  // The lowest block with an adapted linear: backward ends there; -1 when the embedding is trained,
  // the number of blocks where nothing before the head is.
  int64_t lowest_block() const;
  // LoRA+ (arXiv:2402.12354) as peft's create_loraplus_optimizer groups the parameters: B and
  // magnitudes at plus_ratio times the rate, the embedding's pair at embedding_factor times it, A
  // and full matrices at the rate itself. One run for all where plus_ratio is 1.
  std::vector<ParameterRun> runs(double plus_ratio, double embedding_factor) const;

  TensorView values() const;     // (parameter_count) f32
  TensorView gradients() const;  // likewise; null when not trainable
  const AdapterConfig& config() const { return config_; }

 private:
  void set_sites(const PieceTable& table);
  int64_t rank_of(Field end) const;
  const AdapterSlot* slot_of(int64_t block, Field field) const;
  void check_norms(const AdapterSlot& slot, const TensorView& norms, int64_t first_row) const;
  void add_slot(const AdapterSite& site, int64_t rank, double scale);
  void add_full(const AdapterSite& site);
  TensorView full_part(const Buffer& buffer, Field field) const;
  void upload(const std::vector<float>& values);
  TensorView at(const Buffer& buffer, int64_t offset, const Shape& shape) const;
  std::vector<std::string> target_names() const;
  void set_patterns(AdapterConfig& config) const;

  Device* device_ = nullptr;
  AdapterConfig config_;
  std::string place_;  // of an adapter from disk, with a colon, in front of messages
  int64_t block_count_ = 0;
  std::vector<AdapterSite> sites_;  // every module that could be adapted
  std::vector<AdapterSlot> slots_;
  std::vector<FullSlot> full_;
  std::vector<std::vector<int32_t>> index_;  // [block][field] -> slot, -1; the head's last
  int64_t parameter_count_ = 0, norm_count_ = 0;
  Buffer values_, gradients_, norms_;
  Buffer identity_;  // zeros (width * rank), an identity (rank, rank) and its gradient, of no use
  std::vector<bool> normed_;   // per block: its norms are those of the values
  int64_t normed_head_rows_ = 0;
  bool norms_checked_ = false;  // all of them have been seen once
  std::vector<uint64_t> dropout_keys_;  // per slot; empty: no dropout
};

}  // namespace lema
