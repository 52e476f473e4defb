// Mapping or reading of a model's files.
#include "stream/host_store.h"

#include <algorithm>

namespace lema {

HostStore::HostStore(const ModelFolder& folder, Device& device, DiskMode mode, Trace* trace) {
  constexpr int64_t kReadBytes = 16 << 20;
  for (const SafetensorsFile& file : folder.files()) {
    if (mode == DiskMode::Mmap) {
      maps_.emplace_back(file.file().path());
      base_.push_back(maps_.back().data());
      continue;
    }
    const int64_t size = file.file().size();
    buffers_.push_back(device.allocate_pinned(size, "model in host memory"));
    for (int64_t offset = 0; offset < size; offset += kReadBytes) {
      const int64_t bytes = std::min(kReadBytes, size - offset);
      const Trace::DiskSpan span(trace, "read", bytes);
      file.file().read_at(buffers_.back().data() + offset, bytes, offset);
    }
    base_.push_back(buffers_.back().data());
  }
}

TensorView HostStore::view(const PlacedField& field) const {
  // Weights are never written through a view; kernels take one view type for inputs and outputs.
  return {const_cast<std::byte*>(at(field.file, field.file_offset)), field.dtype, field.shape};
}

bool HostStore::can_view(const PieceTable& table) {
  for (int64_t u = 0; u < table.unit_count(); ++u)
    for (const Piece& piece : table.unit(u).pieces)
      for (const PlacedField& field : piece.fields)
        if (field.file_offset % element_bytes(field.dtype) != 0) return false;
  return true;
}

int64_t HostStore::pinned_bytes() const {
  int64_t bytes = 0;
  for (const Buffer& buffer : buffers_) bytes += buffer.bytes();
  return bytes;
}

}  // namespace lema
