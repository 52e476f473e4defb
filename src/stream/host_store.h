// HostStore: a model's weights on the host, the source of every copy to a device and what kernels
// read where the device is the host. The files are mapped; or weights lie in pinned memory, held
// there for good as far as the plan says, the others in a ring that the disk reader fills ahead of
// their use.
//
//   store.begin_pass(units);                       // in the order of the visits to come
//   for each unit: { HostBytes w = store.acquire(unit); ... w.at(file, offset) ...;
//                    store.release(queue); }
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "core/mapped_file.h"
#include "device.h"
#include "layout/piece_table.h"
#include "stream/disk_reader.h"
#include "stream/schedule.h"
#include "stream/trace.h"

namespace lema {

// What of a model lies in host memory; decided by the plan.
struct HostPlacement {
  DiskMode disk = DiskMode::Mmap;  // Mmap: everything is mapped, and the rest of this unused
  bool holds_all = true;           // every unit, and the embedding
  std::vector<bool> held;          // per unit, unless all
  int64_t slots = 0;               // of the ring, each as large as the largest unit not held
};

// Weights in host memory, by their place in the files.
class HostBytes {
 public:
  const std::byte* at(size_t file, int64_t offset) const {
    return image_ ? base_ + image_->offset_of(file, offset) : (*maps_)[file].data() + offset;
  }
  // Weights are never written through a view; kernels take one view type for inputs and outputs.
  TensorView view(const PlacedField& field) const {
    return {const_cast<std::byte*>(at(field.file, field.file_offset)), field.dtype, field.shape};
  }

 private:
  friend class HostStore;
  explicit HostBytes(const std::vector<MappedFile>* maps) : maps_(maps) {}
  HostBytes(const HostImage* image, const std::byte* base) : image_(image), base_(base) {}
  const std::vector<MappedFile>* maps_ = nullptr;
  const HostImage* image_ = nullptr;
  const std::byte* base_ = nullptr;
};

class HostStore {
 public:
  // Reads what small() has, and begins to read the units that are held, which goes on meanwhile.
  // All references outlive the store; `trace` may be null. make_reader: of what is read from disk.
  HostStore(const ModelFolder& folder, const PieceTable& table, Device& device,
            const HostPlacement& placement, Trace* trace = nullptr,
            const MakeReader& make_reader = make_disk_reader);

  // Plans the ring for visits to these units and starts the first reads. Also check_files().
  void begin_pass(std::span<const int64_t> units);
  // The next unit of the pass, valid until its release; blocks until it is read. Throws what a read
  // has thrown (WeightReader::wait), and BadInput where a file changed while it was read for good.
  // Threads: one.
  HostBytes acquire(int64_t unit);
  // The unit is out of use once the work submitted to `queue` so far is complete.
  void release(Queue queue);

  // What is at hand all the time: final norm, learned positions and, with has_embedding(), that.
  HostBytes small() const;
  bool has_embedding() const { return placement_.holds_all; }
  // Whether every weight lies at a multiple of its element size, as in files that lema wrote, so
  // that kernels can read it where it lies.
  static bool can_view(const PieceTable& table);

  // BadInput when a file that is still read has changed, Io when a mapped page could not be read:
  // what was computed since the last call is void.
  void check_files() const;

  int64_t read_bytes() const { return read_bytes_; }  // into the ring so far

 private:
  struct Slot {
    DiskJob job;
    Event released;
    bool was_released = false;
  };
  void hold();
  void fill(int64_t unit);
  void run_until_visit();
  void wait(DiskJob& job, const std::string& what, int64_t bytes);

  const ModelFolder& folder_;
  const PieceTable& table_;
  Device& device_;
  HostPlacement placement_;
  Trace* trace_;
  std::vector<MappedFile> maps_;
  std::optional<DiskFiles> files_;
  HostImage small_;                // everything, with holds_all
  std::vector<HostImage> images_;  // per unit, unless all are held
  std::vector<const std::byte*> held_at_;
  DiskJob first_;                  // what small() has
  std::vector<DiskJob> fills_;     // per unit that is held
  int64_t unfilled_ = 0;           // of them, not waited for
  Buffer small_memory_, held_memory_, ring_memory_;
  int64_t slot_bytes_ = 0;
  std::vector<Slot> slots_;
  RingState ring_;
  Program program_;
  size_t next_ = 0;  // instruction
  int64_t read_bytes_ = 0;
  std::unique_ptr<WeightReader> reader_;  // last: its reads end before the memory does
};

}  // namespace lema
