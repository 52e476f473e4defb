// The executor of a pass's program: submits copies, waits and releases in program order.
#include "stream/layer_stream.h"

#include <algorithm>

namespace lema {

Lease::~Lease() {
  if (stream_) stream_->release();
}

LayerStream::LayerStream(Device& device, const PieceTable& table, HostStore& store,
                         const StreamPlacement& placement, Trace* trace, ComputeStalls* stalls)
    : device_(device),
      table_(table),
      store_(store),
      placement_(placement),
      trace_(trace),
      stalls_(stalls) {
  const auto units = static_cast<size_t>(table.unit_count());
  unit_weights_.resize(units);
  int64_t resident_bytes = 0;
  if (placement_.in_place) placement_.resident.assign(units, true);
  check(placement_.resident.size() == units, "placement of {} units for {}",
        placement_.resident.size(), units);
  for (size_t u = 0; u < units; ++u) {
    const int64_t bytes = table.unit(static_cast<int64_t>(u)).bytes;
    if (!placement_.resident[u])
      slot_bytes_ = std::max(slot_bytes_, bytes);
    else if (!placement_.in_place)
      resident_bytes += bytes;
  }
  if (resident_bytes > 0) resident_buffer_ = device.allocate(resident_bytes, "resident weights");
  if (slot_bytes_ > 0) {
    ring_buffer_ = device.allocate(placement_.slots * slot_bytes_, "weight ring");
    ring_.assign(static_cast<size_t>(placement_.slots), -1);
    slot_weights_.resize(ring_.size());
    was_released_.assign(ring_.size(), false);
    for (size_t s = 0; s < ring_.size(); ++s) {
      copied_.push_back(device.create_event());
      released_.push_back(device.create_event());
    }
  }

  std::vector<int64_t> residents;
  for (size_t u = 0; u < units; ++u)
    if (placement_.resident[u] && !placement_.in_place)
      residents.push_back(static_cast<int64_t>(u));
  store.begin_pass(residents);
  std::byte* at = resident_buffer_.data();
  for (const int64_t u : residents) {
    copy_unit(u, at);
    place_fields(unit_weights_[static_cast<size_t>(u)], table.unit(u), at);
    at += table.unit(u).bytes;
  }

  always_buffer_ = device.allocate(always_bytes(table), "final norm");
  at = always_buffer_.data();
  for (const PlacedField& field : table.final_norm) {
    device.copy_async(Queue::H2D, at, store.small().at(field.file, field.file_offset), field.bytes);
    always_[field.field] = {at, field.dtype, field.shape};
    at += (field.bytes + 63) / 64 * 64;
  }
  device.synchronize(Queue::H2D);
  h2d_bytes_ = 0;
}

int64_t LayerStream::always_bytes(const PieceTable& table) {
  int64_t bytes = 0;
  for (const PlacedField& field : table.final_norm) bytes += (field.bytes + 63) / 64 * 64;
  return bytes;
}

TensorView LayerStream::table(Field field) const {
  if (field == Field::Embed) return store_.small().view(table_.embed);
  check(field == Field::Positions && !table_.positions.empty(), "no gathered table {}",
        name(field));
  return store_.small().view(table_.positions[0]);
}

void LayerStream::place_fields(WeightViews& weights, const Unit& unit, std::byte* base) const {
  weights = {};
  for (const Piece& piece : unit.pieces)
    for (const PlacedField& field : piece.fields)
      weights[field.field] = {base + field.slot_offset, field.dtype, field.shape};
}

void LayerStream::copy_unit(int64_t index, std::byte* base) {
  const Unit& unit = table_.unit(index);
  const HostBytes bytes = store_.acquire(index);
  const Trace::Span span(trace_, Queue::H2D, fmt::format("unit {}", index), unit.bytes);
  for (const Piece& piece : unit.pieces) {
    for (const Extent& extent : piece.extents) {
      device_.copy_async(Queue::H2D, base + extent.slot_offset,
                         bytes.at(extent.file, extent.file_offset), extent.bytes);
      h2d_bytes_ += extent.bytes;
    }
  }
  store_.release(Queue::H2D);
}

void LayerStream::begin_pass(std::vector<int64_t> visits) {
  check(!leased_, "a pass begins while a lease is alive");
  // A pass that was cut short leaves the ring as its instructions so far have made it; ring_
  // follows each Load.
  visits_ = std::move(visits);
  program_ = make_program(visits_, placement_.resident, ring_);
  check_program(program_, visits_, placement_.resident, ring_);
  next_ = 0;
  store_.begin_pass(placement_.in_place ? visits_ : loaded_units(program_));
  run_until_visit();
}

void LayerStream::begin_stall() {
  if (stalls_) stalls_->begin();
}

void LayerStream::end_stall() {
  if (stalls_) stalls_->end();
}

void LayerStream::run_until_visit() {
  for (; next_ < program_.instructions.size(); ++next_) {
    const Instruction& instruction = program_.instructions[next_];
    if (instruction.kind == Instruction::Kind::Visit) return;
    if (instruction.slot < 0) continue;
    const auto s = static_cast<size_t>(instruction.slot);
    if (instruction.kind == Instruction::Kind::Release) {
      device_.record(released_[s], Queue::Compute);
      was_released_[s] = true;
      continue;
    }
    std::byte* base = ring_buffer_.data() + instruction.slot * slot_bytes_;
    if (was_released_[s]) device_.wait(Queue::H2D, released_[s]);
    begin_stall();  // it waits for the disk
    copy_unit(instruction.unit, base);
    end_stall();
    device_.record(copied_[s], Queue::H2D);
    place_fields(slot_weights_[s], table_.unit(instruction.unit), base);
    ring_[s] = instruction.unit;
  }
}

Lease LayerStream::acquire(int64_t unit) {
  check(!leased_, "unit {} is acquired while another lease is alive", unit);
  rethrow();
  check(next_ < program_.instructions.size(), "unit {} is acquired after the end of the pass",
        unit);
  const Instruction& visit = program_.instructions[next_++];
  check(visit.unit == unit, "unit {} is acquired where the pass visits {}", unit, visit.unit);
  if (placement_.in_place) return lease_in_place(unit);
  leased_ = true;
  if (visit.slot < 0) return {this, &unit_weights_[static_cast<size_t>(unit)]};
  begin_stall();
  device_.wait(Queue::Compute, copied_[static_cast<size_t>(visit.slot)]);
  end_stall();
  return {this, &slot_weights_[static_cast<size_t>(visit.slot)]};
}

Lease LayerStream::lease_in_place(int64_t unit) {
  begin_stall();
  const HostBytes bytes = store_.acquire(unit);
  end_stall();
  in_place_weights_ = {};
  for (const Piece& piece : table_.unit(unit).pieces)
    for (const PlacedField& field : piece.fields)
      in_place_weights_[field.field] = bytes.view(field);
  leased_ = true;
  return {this, &in_place_weights_};
}

// Called by a destructor: an error waits for the next acquire, and while another one ends the pass
// nothing is submitted.
void LayerStream::release() {
  leased_ = false;
  if (std::uncaught_exceptions() > 0) return;
  try {
    if (placement_.in_place) store_.release(Queue::Compute);
    run_until_visit();
  } catch (...) {
    error_ = std::current_exception();
  }
}

void LayerStream::rethrow() {
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

}  // namespace lema
