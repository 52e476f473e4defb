// AdapterParameters: every LoRA matrix of a run in one flat f32 buffer, with gradients in a second
// one of the same layout, so that the optimizer is one pass and a checkpoint is one array.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/peft_adapter.h"
#include "layout/piece_table.h"
#include "ops.h"

namespace lema {

// What to adapt and how.
struct AdapterOptions {
  int64_t rank = 16;
  double alpha = 32;
  double dropout = 0;
  // "all-linear", or names: a module is adapted when its path is one or ends with "." + one.
  std::vector<std::string> targets = {"all-linear"};
};

// One adapted linear.
struct AdapterSlot {
  std::string module;  // PEFT's path
  int64_t block = 0;
  Field field = Field::kCount;
  int64_t rank = 0, in = 0, out = 0;
  int64_t a_offset = 0, b_offset = 0;  // in floats; A (rank, in), B (out, rank)
  float scale = 0;
};

class AdapterParameters {
 public:
  // Selects and lays out. Usage error naming a target that matches no linear.
  AdapterParameters(const PieceTable& table, const AdapterOptions& options);
  // Allocates values, and gradients when `trainable`; everything below needs it. `device` outlives
  // this.
  void allocate(Device& device, bool trainable);

  // A uniform in +-1/sqrt(in) (Kaiming, a = sqrt 5), B zero, from the seed alone.
  void initialise(uint64_t seed);
  // Takes a PEFT adapter's values; BadInput when its modules or shapes are not exactly these.
  void load(const Adapter& adapter);
  // The values as a PEFT adapter. Waits for the compute queue.
  Adapter to_adapter(const std::string& base_model) const;

  // The view for one linear of a block, with a null `a` where it is not adapted.
  LoraView view(int64_t block, Field field) const;
  // Dropout of the coming passes: masks are a function of (seed, step, module); training off drops
  // nothing.
  void set_step(uint64_t seed, int64_t step, bool training);

  const std::vector<AdapterSlot>& slots() const { return slots_; }
  int64_t parameter_count() const { return parameter_count_; }
  // The lowest block with an adapted linear; backward stops there.
  int64_t lowest_block() const;
  TensorView values() const;     // (parameter_count) f32
  TensorView gradients() const;  // likewise; null when not trainable
  const AdapterOptions& options() const { return options_; }

 private:
  Device* device_ = nullptr;
  AdapterOptions options_;
  bool transposed_ = false;           // Conv1D base: fan_in_fan_out in PEFT's config
  std::vector<std::string> linears_;  // every module that could be adapted
  std::vector<AdapterSlot> slots_;
  std::vector<std::vector<int32_t>> index_;  // [block][field] -> slot, -1
  int64_t parameter_count_ = 0;
  Buffer values_, gradients_;
  std::vector<uint64_t> dropout_keys_;  // per slot; empty: no dropout
};

// The options that reproduce an adapter read from disk.
AdapterOptions options_of(const AdapterConfig& config);

}  // namespace lema
