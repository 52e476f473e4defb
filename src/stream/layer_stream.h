// LayerStream: gives the model code one unit's weights at a time while the next ones are on their
// way.
//
//   stream.begin_pass(training_visits(...));
//   for each visit: { Lease w = stream.acquire(unit); ... w[Field::Wq] ... }   // dropping the
//   lease frees the slot
//
// The compute queue, not the host, waits for copies; the host waits in acquire(), or where a lease
// is dropped, for bytes that are still on their way from disk. Dropping a lease records an event
// that the next copy into those bytes waits for.
#pragma once

#include <exception>
#include <vector>

#include "device.h"
#include "layout/piece_table.h"
#include "stream/compute_stalls.h"
#include "stream/host_store.h"
#include "stream/schedule.h"
#include "stream/trace.h"

namespace lema {

class LayerStream;

// The right to read one unit's weights. Move-only; at most one is alive per stream.
class [[nodiscard]] Lease {
 public:
  Lease(Lease&& other) noexcept
      : stream_(std::exchange(other.stream_, nullptr)), weights_(other.weights_) {}
  Lease& operator=(Lease&&) = delete;
  ~Lease();
  // The weight, or a null view where the model has none.
  const TensorView& operator[](Field field) const { return (*weights_)[field]; }
  const WeightViews& weights() const { return *weights_; }

 private:
  friend class LayerStream;
  Lease(LayerStream* stream, const WeightViews* weights) : stream_(stream), weights_(weights) {}
  LayerStream* stream_;
  const WeightViews* weights_;
};

// Where each unit lives; decided by the plan.
struct StreamPlacement {
  bool in_place = false;  // weights are read where the host store has them, if the device can
  std::vector<bool> resident;  // per unit: copied to the device once
  int64_t slots = 0;           // of the ring, each as large as the largest streamed unit
};

class LayerStream {
 public:
  // Allocates the resident arena and the ring, and fills the arena. All references outlive the
  // stream. `trace` may be null; so may `stalls`, of compute waiting for weights.
  LayerStream(Device& device, const PieceTable& table, HostStore& store,
              const StreamPlacement& placement, Trace* trace = nullptr,
              ComputeStalls* stalls = nullptr);
  LayerStream(const LayerStream&) = delete;

  // Plans the pass, checks the program and submits its first copies.
  void begin_pass(std::vector<int64_t> visits);
  // The next visit of the pass; Internal when it is not `unit` or a lease is alive. Also throws
  // what a copy that was submitted since the last call has thrown. Threads: one.
  Lease acquire(int64_t unit);

  // The small weights that are always on the device: final norm.
  const TensorView& resident(Field field) const { return always_[field]; }
  // Gathered tables, in host memory: positions, and embed where the store has it.
  TensorView table(Field field) const;

  // Of the small weights that are always on the device.
  static int64_t always_bytes(const PieceTable& table);

  int64_t h2d_bytes() const { return h2d_bytes_; }  // copied so far
  const PieceTable& pieces() const { return table_; }

 private:
  friend class Lease;
  void place_fields(WeightViews& weights, const Unit& unit, std::byte* base) const;
  void copy_unit(int64_t index, std::byte* base);
  Lease lease_in_place(int64_t unit);
  void run_until_visit();
  // Around what compute may wait for weights in.
  void begin_stall();
  void end_stall();
  void rethrow();
  void release();

  Device& device_;
  const PieceTable& table_;
  HostStore& store_;
  StreamPlacement placement_;
  Trace* trace_;
  ComputeStalls* stalls_;
  Buffer resident_buffer_, ring_buffer_, always_buffer_;
  int64_t slot_bytes_ = 0;
  WeightViews always_;
  std::vector<WeightViews> unit_weights_;  // of resident units
  WeightViews in_place_weights_;           // of the unit that is leased
  std::vector<WeightViews> slot_weights_;  // of what each slot holds
  std::vector<Event> copied_, released_;   // per slot
  std::vector<bool> was_released_;         // per slot: released_ has been recorded
  RingState ring_;
  std::vector<int64_t> visits_;
  Program program_;
  size_t next_ = 0;  // instruction
  bool leased_ = false;
  std::exception_ptr error_;  // of a copy submitted while a lease was dropped
  int64_t h2d_bytes_ = 0;
};

}  // namespace lema
