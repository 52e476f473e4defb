// The program of a pass as data: which unit is copied to which slot when, planned from the known
// order of visits.
//
// A pass is a list of visits. Streamed units need a slot of the ring; a slot is overwritten by the
// unit whose next visit lies furthest ahead (Belady), so what forward leaves in the ring backward
// uses, and the next pass again. The order of instructions is the order of submission: a Load
// follows the Release of the slot's last visit.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace lema {

struct Instruction {
  enum class Kind { Load, Visit, Release } kind = Kind::Visit;
  int64_t unit = 0;
  int64_t slot = -1;  // -1: resident

  bool operator==(const Instruction&) const = default;
};

// Unit in each slot of the ring, -1 where none is.
using RingState = std::vector<int64_t>;

struct Program {
  std::vector<Instruction> instructions;
  RingState final_state;
  int64_t load_count = 0;
};

// Plans one pass over `visits` from the ring as `state` describes it. Beyond its end the same
// visits are assumed to come again. resident[u]: unit u needs no slot. Internal error when there is
// a streamed visit and no slot.
Program make_program(std::span<const int64_t> visits, const std::vector<bool>& resident,
                     const RingState& state);

// The units of its loads, in order.
std::vector<int64_t> loaded_units(const Program& program);

// Replays a program and throws Internal at the first hazard: a visit to a unit that is not in its
// slot, a load into a slot that is being visited or still holds a unit that is loaded and not
// visited. Returns the number of loads.
int64_t check_program(const Program& program, std::span<const int64_t> visits,
                      const std::vector<bool>& resident, const RingState& state);

// The visits of a training step: blocks 0..L-1, head chunks, blocks L-1..lowest_trained.
std::vector<int64_t> training_visits(int64_t blocks, int64_t head_chunks, int64_t lowest_trained);
// Of an inference pass: blocks 0..L-1, head chunks.
std::vector<int64_t> forward_visits(int64_t blocks, int64_t head_chunks);

}  // namespace lema
