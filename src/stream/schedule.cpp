// Belady's rule over a known order of visits. Called by LayerStream at the start of each pass.
#include "stream/schedule.h"

#include <algorithm>

#include "core/error.h"

namespace lema {
namespace {

class Planner {
 public:
  Planner(std::span<const int64_t> visits, const std::vector<bool>& resident,
          const RingState& state)
      : visits_(visits), resident_(resident) {
    program_.final_state = state;
  }

  Program plan() {
    const auto count = static_cast<int64_t>(visits_.size());
    prefetch(0);
    for (int64_t t = 0; t < count; ++t) {
      const int64_t unit = at(t);
      if (resident_[static_cast<size_t>(unit)]) {
        emit(Instruction::Kind::Visit, unit, -1);
        emit(Instruction::Kind::Release, unit, -1);
        continue;
      }
      const int64_t slot = slot_of(unit);
      check(slot >= 0, "unit {} is visited and in no slot", unit);
      emit(Instruction::Kind::Visit, unit, slot);
      emit(Instruction::Kind::Release, unit, slot);
      prefetch(t + 1);
    }
    return std::move(program_);
  }

 private:
  int64_t at(int64_t t) const { return visits_[static_cast<size_t>(t) % visits_.size()]; }

  void emit(Instruction::Kind kind, int64_t unit, int64_t slot) {
    program_.instructions.push_back({kind, unit, slot});
    program_.load_count += kind == Instruction::Kind::Load;
  }

  int64_t slot_of(int64_t unit) const {
    const RingState& slots = program_.final_state;
    const auto found = std::find(slots.begin(), slots.end(), unit);
    return found == slots.end() ? -1 : found - slots.begin();
  }

  // First visit to `unit` at or after t; the pass repeats, so one always comes unless the unit is
  // never visited.
  int64_t next_visit(int64_t unit, int64_t t) const {
    for (int64_t i = t; i < t + static_cast<int64_t>(visits_.size()); ++i)
      if (at(i) == unit) return i;
    return INT64_MAX;
  }

  // Loads the units of the visits from t to the pass's end into slots whose unit is needed later
  // than they are. The repeated pass only decides which unit goes: its own units it loads itself.
  void prefetch(int64_t t) {
    RingState& slots = program_.final_state;
    for (int64_t i = t; i < static_cast<int64_t>(visits_.size()); ++i) {
      const int64_t unit = at(i);
      if (resident_[static_cast<size_t>(unit)] || slot_of(unit) >= 0) continue;
      check(!slots.empty(), "a streamed unit and no slot in the ring");
      int64_t victim = -1, victim_next = i;
      for (size_t s = 0; s < slots.size(); ++s) {
        const int64_t next = slots[s] < 0 ? INT64_MAX : next_visit(slots[s], t);
        if (next > victim_next) {
          victim_next = next;
          victim = static_cast<int64_t>(s);
        }
      }
      if (victim < 0) return;  // every slot holds something that is needed sooner
      slots[static_cast<size_t>(victim)] = unit;
      emit(Instruction::Kind::Load, unit, victim);
    }
  }

  std::span<const int64_t> visits_;
  const std::vector<bool>& resident_;
  Program program_;
};

}  // namespace

Program make_program(std::span<const int64_t> visits, const std::vector<bool>& resident,
                     const RingState& state) {
  if (visits.empty()) return {{}, state, 0};
  return Planner(visits, resident, state).plan();
}

std::vector<int64_t> loaded_units(const Program& program) {
  std::vector<int64_t> units;
  for (const Instruction& instruction : program.instructions)
    if (instruction.kind == Instruction::Kind::Load) units.push_back(instruction.unit);
  return units;
}

int64_t check_program(const Program& program, std::span<const int64_t> visits,
                      const std::vector<bool>& resident, const RingState& state) {
  RingState slots = state;
  std::vector<bool> busy(slots.size(), false), unread(slots.size(), false);
  size_t t = 0;
  int64_t loads = 0;
  for (const Instruction& instruction : program.instructions) {
    const auto s = static_cast<size_t>(instruction.slot);
    switch (instruction.kind) {
      case Instruction::Kind::Load:
        check(instruction.slot >= 0 && s < slots.size(), "load of unit {} into slot {}",
              instruction.unit, instruction.slot);
        check(!busy[s], "slot {} is overwritten while unit {} is visited", s, slots[s]);
        check(!unread[s], "slot {} is overwritten before unit {} was visited", s, slots[s]);
        slots[s] = instruction.unit;
        unread[s] = true;
        ++loads;
        break;
      case Instruction::Kind::Visit:
        check(t < visits.size() && visits[t] == instruction.unit, "visit {} is not to unit {}", t,
              instruction.unit);
        ++t;
        if (instruction.slot < 0) {
          check(resident[static_cast<size_t>(instruction.unit)], "unit {} is not resident",
                instruction.unit);
          break;
        }
        check(slots[s] == instruction.unit, "slot {} holds unit {}, visited as {}", s, slots[s],
              instruction.unit);
        busy[s] = true;
        unread[s] = false;
        break;
      case Instruction::Kind::Release:
        if (instruction.slot >= 0) busy[s] = false;
        break;
    }
  }
  check(t == visits.size(), "{} of {} visits are in the program", t, visits.size());
  return loads;
}

std::vector<int64_t> training_visits(int64_t blocks, int64_t head_chunks, int64_t lowest_trained) {
  std::vector<int64_t> visits = forward_visits(blocks, head_chunks);
  for (int64_t b = blocks - 1; b >= lowest_trained; --b) visits.push_back(b);
  return visits;
}

std::vector<int64_t> forward_visits(int64_t blocks, int64_t head_chunks) {
  std::vector<int64_t> visits;
  for (int64_t u = 0; u < blocks + head_chunks; ++u) visits.push_back(u);
  return visits;
}

}  // namespace lema
