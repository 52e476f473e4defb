// PieceTable: a model's weights resolved against its files and cut into units that are streamed. A
// unit is a block or a chunk of head rows; its pieces are the grain of copies; offsets inside a
// unit are those inside a ring slot.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "formats/hf_model.h"
#include "layout/fields.h"

namespace lema {

// One weight at its place in the file and in a unit.
struct PlacedField {
  Field field = Field::kCount;
  std::string module;  // PEFT's path, "" where it is no linear
  DType dtype = DType::F32;
  Shape shape;
  size_t file = 0;          // index into ModelFolder::files()
  int64_t file_offset = 0;  // of the first byte
  int64_t slot_offset = 0;  // from the start of the unit
  int64_t bytes = 0;
};

// A contiguous run of bytes of one file: one read and one copy.
struct Extent {
  size_t file = 0;
  int64_t file_offset = 0, slot_offset = 0, bytes = 0;
};

struct Piece {
  std::string name;  // "block 3 gate_up", "head rows 0-8191"
  std::vector<PlacedField> fields;
  std::vector<Extent>
      extents;  // one where the file holds the piece in order, as lema's own files do
  int64_t slot_offset = 0, bytes = 0;
};

struct Unit {
  std::vector<Piece> pieces;
  int64_t bytes = 0;
};

struct PieceTable {
  ModelSpec spec;
  std::vector<Unit> blocks;
  std::vector<Unit> head_chunks;  // rows [i * head_chunk_rows, ...) of the head
  int64_t head_chunk_rows = 0;
  PlacedField embed;                    // gathered row by row, never streamed
  std::vector<PlacedField> positions;   // likewise
  std::vector<PlacedField> final_norm;  // small, always resident

  int64_t unit_count() const { return static_cast<int64_t>(blocks.size() + head_chunks.size()); }
  // Units are numbered blocks first, then head chunks.
  const Unit& unit(int64_t i) const;
};

// Calls use(rows, first row) for the chunks of a head that lies in one piece, (vocabulary, C).
template <typename Use>
void for_each_chunk(const TensorView& head, int64_t chunk_rows, const Use& use) {
  for (int64_t begin = 0; begin < head.shape[0]; begin += chunk_rows)
    use(head.rows(begin, std::min(head.shape[0], begin + chunk_rows)), begin);
}

// Checks every tensor's presence, shape and dtype (F32, BF16, F16) against config.json before
// anything is allocated; BadInput names file and tensor, also for tensors that no table claims. A
// tied head's own tensor is the head if it is no copy. `head_chunk_rows`: 0 for a block's size.
PieceTable make_piece_table(const ModelFolder& folder, int64_t head_chunk_rows = 0);

}  // namespace lema
