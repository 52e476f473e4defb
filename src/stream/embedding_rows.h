// EmbeddingRows: the embedding's rows of a pass's tokens, read from the file where the host store
// does not hold the table. Who sends the ids maps them to rows of table() and has these read.
#pragma once

#include <span>
#include <vector>

#include "device.h"
#include "layout/piece_table.h"

namespace lema {

class EmbeddingRows {
 public:
  // For passes of at most `tokens` tokens. `folder` outlives the object; so does `device`.
  EmbeddingRows(const ModelFolder& folder, const PlacedField& embed, Device& device,
                int64_t tokens);
  // Of pinned memory.
  static int64_t bytes(const PlacedField& embed, int64_t tokens);

  // Forgets the last pass, whose work is complete.
  void begin_pass();
  // Replaces each id by a row of table(), which is asked for.
  void map(std::span<int32_t> ids);
  // Reads the rows asked for. Errors as File::read_at.
  void read();
  // (rows asked for, C) as stored, in pinned memory.
  TensorView table() const;

  int64_t read_bytes() const { return read_bytes_; }  // so far
  double read_ms() const { return read_ms_; }

 private:
  const File& file_;
  PlacedField embed_;
  int64_t row_bytes_;
  Buffer rows_;
  std::vector<int32_t> row_of_;  // per id, -1: not asked for
  std::vector<int32_t> ids_;     // per row
  int64_t read_bytes_ = 0;
  double read_ms_ = 0;
};

}  // namespace lema
