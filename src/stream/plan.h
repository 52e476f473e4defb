// The placement plan: what lies where, before anything is allocated. A pure function of sizes and
// budgets; the trainer carries it out and shows it as a table and as plan.json.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/value.h"
#include "stream/layer_stream.h"

namespace lema {

// Device; page-locked, or ordinary memory of the host; pages of mapped files.
enum class Tier { Device, Pinned, Host, Mapped };

// One buffer of the table.
struct PlanLine {
  Tier tier = Tier::Device;
  std::string label;
  int64_t bytes = 0;
};

// A budget for host memory: what does not fit comes from disk. Not for mapped files.
struct RamRequest {
  int64_t budget = 0;                // bytes of all tiers but a device's own; 0: none
  bool is_set = true;                // by `key`; else it is what the machine has
  bool holds_device = false;         // the device's memory is the host's: the CPU
  std::vector<int64_t> image_bytes;  // per unit: in host memory
  int64_t small_bytes = 0;           // likewise: what is always there
  int64_t row_bytes = 0;             // the embedding's rows of a step, where it is not held
  const char* key = "memory.ram";
};

struct PlanRequest {
  std::vector<int64_t> unit_bytes;  // blocks, then head chunks
  int64_t block_count = 0;
  std::vector<PlanLine> fixed;  // adapters, moments, workspace: needed whatever is placed where
  int64_t boundary_count = 0;   // block inputs and the last output
  int64_t boundary_bytes = 0;   // of one, for all tokens of a step
  int64_t kept_bytes_per_block = 0;  // what a block saves when it is not recomputed
  int64_t device_budget = 0;         // bytes; 0: none
  bool device_budget_is_set = true;  // by memory.vram; else it is what the device has
  int64_t pinned_weights = 0;        // all weights in host memory; 0: the files are mapped
  // Page-locked bytes for which the driver takes one byte of the device, for page tables; 0: none.
  int64_t pinned_per_device_byte = 0;
  bool weights_in_place = false;     // the device reads the host's copy, so nothing need be copied
  std::string residency = "auto";    // auto | stream | resident
  int64_t slots = 0;                 // 0: auto; of the ring on the device, else of that in RAM
  std::string activations = "auto";  // auto | keep | recompute | offload
  RamRequest ram;
};

struct Plan {
  StreamPlacement weights;
  HostPlacement host;
  bool offload_boundaries = false;
  int64_t kept_blocks = 0;  // the last blocks, whose backward comes first
  std::vector<PlanLine> lines;
  int64_t bytes(Tier tier) const;
  Value to_value() const;
  // The lines as a table for people.
  std::string table() const;
};

// What weights take that are read into host memory for this device; nothing else is requested.
PlanRequest weights_request(const PieceTable& table, const Device& device);

// The smallest device budget that the request can be met with.
int64_t least_device_bytes(const PlanRequest& request);
// The smallest ram.budget, which is set to more than 0, likewise.
int64_t least_host_bytes(const PlanRequest& request);

// DoesNotFit when a budget is smaller than the least that would do, which is named.
Plan make_plan(const PlanRequest& request);

}  // namespace lema
