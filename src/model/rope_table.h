// Cosines and sines of rotary position embedding on the device, as Ops::rope reads them, and which
// row of them each token reads. Held by Transformer; whoever makes the integers of a pass maps its
// positions here.
//
// Two kinds rotate by the length of the sequence a token stands in. Packed rows are sequences of
// their own: each is rotated as transformers rotates it when it comes alone.
//   longrope  two sets of frequencies, one for sequences up to the length of the pretraining, one
//             for longer ones
//   dynamic   beyond max_position_embeddings the base is a function of the length: such tokens get
//             rows of their own, computed when they come
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "device.h"
#include "formats/hf_model.h"

namespace lema {

// Inverse frequencies for a sequence of `length` tokens, ceil(rope.dim / 2) of them, in f32 as
// transformers computes them. Ref: modeling_rope_utils; llama3 keeps short wavelengths, divides
// long ones by `factor` and blends between; yarn is arXiv:2309.00071, longrope arXiv:2402.13753.
std::vector<float> rope_inverse_frequencies(const RopeConfig& rope, int64_t length);

// What a table is to hold.
struct RopeLimits {
  int64_t positions = 0;  // tokens of the longest sequence
  int64_t tokens = 0;     // of one pass
};

class RopeTable {
 public:
  // Nothing for learned positions. `device` outlives the table.
  RopeTable(Device& device, const RopeConfig& rope, const RopeLimits& limits);
  // What the constructor allocates, for the plan.
  static int64_t bytes(const RopeConfig& rope, const RopeLimits& limits);
  static int64_t pinned_bytes(const RopeConfig& rope, const RopeLimits& limits);

  // Begins a pass: what the one before mapped is forgotten; its work is complete.
  void begin_pass() { mapped_ = 0; }
  // Positions of one sequence's tokens become rows of the table, in place; learned positions stay.
  // `length` is that of the sequence, from position 0 to its last token to be rotated with these.
  void map(std::span<int32_t> positions, int64_t length);
  // The same for the packed rows of a batch: (S, 4) as Ops::attention takes them, kv_len the
  // length.
  void map_sequences(std::span<int32_t> positions, std::span<const int32_t> sequences);
  // Sends what was computed for this pass, in the compute queue's order. Before the first use.
  void send();

  // Whether a token at the same position is rotated alike in sequences of these two lengths.
  bool is_alike(int64_t length, int64_t other) const;
  // Whether a sequence that grows from one length to the other needs its earlier tokens rotated
  // again, as transformers' Phi-3 does. Keys of the dynamic kind stay as they were rotated.
  bool outgrows(int64_t length, int64_t grown) const {
    return rope_.kind == RopeConfig::Kind::LongRope && !is_alike(length, grown);
  }

  explicit operator bool() const { return rope_.kind != RopeConfig::Kind::None; }
  // (rows, P) f32: P/2 cosines, then the sines, times rope.attention_factor.
  TensorView view() const;

 private:
  const RopeConfig& rope_;
  Device& device_;
  int64_t shared_rows_ = 0;  // rows fixed at construction, before those of a pass
  int64_t mapped_ = 0;       // rows of this pass
  Buffer buffer_;
  Buffer host_;  // rows of this pass; dynamic kind only
};

}  // namespace lema
