// Mapping, holding, and the executor of the ring's program.
#include "stream/host_store.h"

#include <algorithm>

#include "core/error.h"

namespace lema {

HostStore::HostStore(const ModelFolder& folder, const PieceTable& table, Device& device,
                     const HostPlacement& placement, Trace* trace, const MakeReader& make_reader)
    : folder_(folder), table_(table), device_(device), placement_(placement), trace_(trace) {
  if (placement_.disk == DiskMode::Mmap) {
    placement_.holds_all = true;
    for (const SafetensorsFile& file : folder.files()) maps_.emplace_back(file.file());
    return;
  }
  const auto units = static_cast<size_t>(table.unit_count());
  small_ = HostImage(placement_.holds_all ? all_extents(table) : small_extents(table));
  if (!placement_.holds_all) {
    check(placement_.held.size() == units, "placement of {} units for {}", placement_.held.size(),
          units);
    for (size_t u = 0; u < units; ++u)
      images_.emplace_back(unit_extents(table.unit(static_cast<int64_t>(u))));
  }
  for (size_t u = 0; u < images_.size(); ++u)
    if (!placement_.held[u]) slot_bytes_ = std::max(slot_bytes_, images_[u].bytes());
  if (slot_bytes_ > 0) {
    ring_memory_ = device.allocate_pinned(placement_.slots * slot_bytes_, "weight ring in RAM");
    ring_.assign(static_cast<size_t>(placement_.slots), -1);
    slots_.resize(ring_.size());
    for (Slot& slot : slots_) slot.released = device.create_event();
  }
  files_.emplace(folder, placement_.disk == DiskMode::Direct);
  reader_ = make_reader(*files_);
  hold();
}

// Allocates what stays and reads what is wanted at once; the units come after it, in the order of
// a pass, while the first pass may begin; what a ring loads comes after them all. In one image of
// all weights a disk block that two of them share is read with the first, a tied head with the
// embedding.
void HostStore::hold() {
  int64_t held_bytes = 0;
  for (size_t u = 0; u < images_.size(); ++u)
    if (placement_.held[u]) held_bytes += images_[u].bytes();
  if (held_bytes > 0) held_memory_ = device_.allocate_pinned(held_bytes, "weights held in RAM");
  small_memory_ = device_.allocate_pinned(
      small_.bytes(), placement_.holds_all ? "weights in RAM" : "final norm and positions");
  std::vector<Extent> first = small_extents(table_);
  if (placement_.holds_all)
    first.push_back({table_.embed.file, table_.embed.file_offset, 0, table_.embed.bytes});
  std::vector<bool> taken(static_cast<size_t>(small_.bytes() / kDiskBlock));
  const HostImage at_once = small_.part(std::move(first), taken);
  reader_->start(at_once, small_memory_.data(), first_);
  const auto units = static_cast<size_t>(table_.unit_count());
  fills_.resize(units);
  held_at_.resize(images_.size());
  std::byte* at = held_memory_.data();
  for (size_t u = 0; u < units; ++u) {
    if (!placement_.holds_all && !placement_.held[u]) continue;
    if (placement_.holds_all) {
      const HostImage part =
          small_.part(unit_extents(table_.unit(static_cast<int64_t>(u))), taken);
      if (part.bytes() == 0) continue;  // a head that is the embedding
      ++unfilled_;
      reader_->start(part, small_memory_.data(), fills_[u]);
      continue;
    }
    ++unfilled_;
    held_at_[u] = at;
    reader_->start(images_[u], at, fills_[u]);
    at += images_[u].bytes();
  }
  wait(first_, "read", at_once.bytes());
  check_files();
}

// Waits for the reads of a unit that stays, and of those before it, with which it may share disk
// blocks. After the last of them the files are as they were.
void HostStore::fill(int64_t unit) {
  if (unfilled_ == 0) return;
  for (int64_t u = 0; u <= unit; ++u) {
    DiskJob& job = fills_[static_cast<size_t>(u)];
    if (!job.is_open()) continue;
    wait(job, fmt::format("unit {}", u), table_.unit(u).bytes);
    if (--unfilled_ > 0) continue;
    for (const SafetensorsFile& file : folder_.files()) file.file().check_unchanged();
  }
}

void HostStore::wait(DiskJob& job, const std::string& what, int64_t bytes) {
  reader_->wait(job);
  if (trace_) trace_->disk_span(what, bytes, job.begin(), job.end());
}

void HostStore::begin_pass(std::span<const int64_t> units) {
  check_files();
  if (slots_.empty()) return;
  // A pass that was cut short leaves the ring as its instructions so far have made it.
  program_ = make_program(units, placement_.held, ring_);
  check_program(program_, units, placement_.held, ring_);
  next_ = 0;
  run_until_visit();
}

void HostStore::run_until_visit() {
  for (; next_ < program_.instructions.size(); ++next_) {
    const Instruction& instruction = program_.instructions[next_];
    if (instruction.kind == Instruction::Kind::Visit) return;
    if (instruction.kind == Instruction::Kind::Release) continue;  // release() has recorded it
    const auto s = static_cast<size_t>(instruction.slot);
    Slot& slot = slots_[s];
    if (slot.was_released) device_.synchronize(slot.released);
    reader_->wait(slot.job);  // of a pass that was cut short
    reader_->start(images_[static_cast<size_t>(instruction.unit)],
                   ring_memory_.data() + instruction.slot * slot_bytes_, slot.job);
    ring_[s] = instruction.unit;
    read_bytes_ += images_[static_cast<size_t>(instruction.unit)].bytes();
  }
}

HostBytes HostStore::acquire(int64_t unit) {
  const auto u = static_cast<size_t>(unit);
  if (!maps_.empty()) return small();
  fill(unit);
  if (placement_.holds_all) return small();
  if (slots_.empty()) return {&images_[u], held_at_[u]};
  run_until_visit();
  check(next_ < program_.instructions.size(), "unit {} is acquired after the end of the pass",
        unit);
  const Instruction& visit = program_.instructions[next_];
  check(visit.unit == unit, "unit {} is acquired where the pass visits {}", unit, visit.unit);
  ++next_;
  if (visit.slot < 0) return {&images_[u], held_at_[u]};
  DiskJob& job = slots_[static_cast<size_t>(visit.slot)].job;
  if (job.is_open()) wait(job, fmt::format("unit {}", unit), images_[u].bytes());
  return {&images_[u], ring_memory_.data() + visit.slot * slot_bytes_};
}

void HostStore::release(Queue queue) {
  if (slots_.empty()) return;
  const int64_t s = program_.instructions[next_ - 1].slot;
  if (s < 0) return;
  Slot& slot = slots_[static_cast<size_t>(s)];
  device_.record(slot.released, queue);
  slot.was_released = true;
}

HostBytes HostStore::small() const {
  if (!maps_.empty()) return HostBytes(&maps_);
  return {&small_, small_memory_.data()};
}

bool HostStore::can_view(const PieceTable& table) {
  for (int64_t u = 0; u < table.unit_count(); ++u)
    for (const Piece& piece : table.unit(u).pieces)
      for (const PlacedField& field : piece.fields)
        if (field.file_offset % element_bytes(field.dtype) != 0) return false;
  return true;
}

void HostStore::check_files() const {
  if (placement_.holds_all && maps_.empty() && unfilled_ == 0) return;  // all is read
  for (const SafetensorsFile& file : folder_.files()) file.file().check_unchanged();
  for (size_t i = 0; i < maps_.size(); ++i)
    if (maps_[i].has_fault())
      fail(ErrorCode::Io, "{}: a part of it cannot be read from disk",
           folder_.files()[i].file().path().string());
}

}  // namespace lema
