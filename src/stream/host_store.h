// HostStore: a model's files in host memory, mapped in place or read into page-locked memory. The
// source of every copy to a device, and the table that embedding rows are gathered from.
#pragma once

#include <vector>

#include "device.h"
#include "layout/piece_table.h"
#include "stream/trace.h"

namespace lema {

enum class DiskMode { Mmap, Buffered };

class HostStore {
 public:
  // Mmap maps every file; Buffered reads them whole into pinned memory. `device` outlives the
  // store. `trace` may be null.
  HostStore(const ModelFolder& folder, Device& device, DiskMode mode, Trace* trace = nullptr);

  const std::byte* at(size_t file, int64_t offset) const { return base_[file] + offset; }
  // The weight where it lies. Kernels may read it there when can_view().
  TensorView view(const PlacedField& field) const;
  // Whether every weight lies at a multiple of its element size, as in files that lema wrote.
  static bool can_view(const PieceTable& table);
  int64_t pinned_bytes() const;

 private:
  std::vector<MappedFile> maps_;
  std::vector<Buffer> buffers_;
  std::vector<const std::byte*> base_;
};

}  // namespace lema
