// RunPlan: everything that a training run decides before it allocates: what may change bits (the
// numeric plan), the limits of its parts, and every buffer on every tier (the placement). A value
// made from config, model, data and device; `lema plan` and --dry-run print it, the Trainer carries
// it out, a checkpoint keeps its numeric part.
#pragma once

#include <string>
#include <vector>

#include "model/adapter_parameters.h"
#include "model/backend.h"
#include "model/head_loss.h"
#include "stream/plan.h"
#include "train/step_bounds.h"

namespace lema {

// What may change bits. Fixed by model, config and data; saved in checkpoints.
struct NumericPlan {
  DType compute = DType::F32;
  int64_t micro_rows = 0, token_tile = 0, head_chunk_rows = 0;
  std::string backend, arithmetic;  // of the device
  Value to_value() const;
};

// A model and what is trained of it.
struct RunModel {
  // `folder` outlives the object. Usage, BadInput as of make_piece_table and AdapterParameters.
  // start: the adapter of lora.init_from, null for a fresh one.
  RunModel(const ModelFolder& folder, const RunConfig& config, const Adapter* start);

  const ModelFolder& folder;
  PieceTable table;             // without the head where the adapter has one in full
  std::vector<Unit> base_head;  // which then starts from this
  AdapterParameters adapter;
};

// Norms that the host reads with the losses of a step, which begin 16 bytes after them.
inline constexpr int64_t kNormSlots = 4;

struct RunPlan {
  NumericPlan numeric;
  StepBounds bounds;
  OpsLimits ops;
  TransformerLimits blocks;
  HeadLimits head;
  bool reads_into_memory = false;  // weights are read into host memory, not mapped
  bool reads_page_cache = false;   // and in steps out of the page cache
  int64_t ram_budget = 0;          // of all host memory; 0: none
  int64_t vram_budget = 0;         // of the device's; 0: none
  Plan placement;
  bool shares_memory = false;  // the device's memory is the host's: the CPU

  // Bytes of the process's own (anonymous) memory at the peak: every tier but the mapped files, the
  // device's where it is the host's.
  int64_t anonymous_bytes() const;
  // With the pages of mapped files: what the machine must have free, or else reads again and again.
  int64_t memory_bytes() const { return anonymous_bytes() + placement.bytes(Tier::Mapped); }
  // The table for people, with the sums.
  std::string table() const;
  Value to_value() const;  // plan.json
};

// memory.vram, else what the device has free; 0: no limit.
int64_t device_budget(const RunConfig& config, const Device& device);

// Usage for rows beyond the model's positions; DoesNotFit as of make_plan. Nothing is allocated on
// the device. `available`: bytes of host memory to stay within where memory.ram is not set; 0:
// none.
RunPlan make_run_plan(const RunConfig& config, const RunModel& model, const Device& device,
                      const OpsFactory& ops, const DataFacts& data, int64_t available = 0);

// The smallest device budget that the run could be placed in.
int64_t least_device_bytes(const RunConfig& config, const RunModel& model, const Device& device,
                           const OpsFactory& ops, const DataFacts& data);
// The smallest budget for host memory, likewise. `available` as of make_run_plan.
int64_t least_host_bytes(const RunConfig& config, const RunModel& model, const Device& device,
                         const OpsFactory& ops, const DataFacts& data, int64_t available = 0);

// What a block keeps of a step's activations from forward for backward, instead of recomputing it,
// from `base` on, each tensor aligned as kernels want it (Carver). `bytes` may be null.
KeptActivations kept_block(const ModelConfig& config, DType X, int64_t tokens, std::byte* base,
                           int64_t* bytes = nullptr);
int64_t kept_block_bytes(const ModelConfig& config, DType X, int64_t tokens);

}  // namespace lema
