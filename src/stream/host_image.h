// HostImage: how parts of files lie in host memory when they are read from disk: the windows of the
// files that hold them, widened to whole disk blocks as direct reads need them, one after the
// other. An image keeps the alignment that every byte has in its file.
#pragma once

#include <cstdint>
#include <vector>

#include "core/file.h"
#include "layout/piece_table.h"

namespace lema {

// Bytes [begin, begin + bytes) of a file, both multiples of kDiskBlock. The last block may reach
// beyond the file's end; `needed` bytes lie in it.
struct Window {
  size_t file = 0;
  int64_t begin = 0, bytes = 0, needed = 0;
  int64_t image_offset = 0;
};

class HostImage {
 public:
  HostImage() = default;
  // Of these extents; neighbours in a file share a window.
  explicit HostImage(std::vector<Extent> extents);

  const std::vector<Window>& windows() const { return windows_; }
  int64_t bytes() const { return bytes_; }
  // Where a byte of a file lies in the image; Internal when it is in no window.
  int64_t offset_of(size_t file, int64_t file_offset) const;
  // The windows of some of its extents, where they lie in this image, but for the disk blocks that
  // are `taken` already; it takes the others. `taken` has a bit for each block of this image.
  HostImage part(std::vector<Extent> extents, std::vector<bool>& taken) const;

 private:
  const Window& window_of(size_t file, int64_t file_offset) const;

  std::vector<Window> windows_;
  int64_t bytes_ = 0;
};

// What a unit reads, what the small weights (final norm, learned positions) read, and what all
// weights and the embedding read.
std::vector<Extent> unit_extents(const Unit& unit);
std::vector<Extent> small_extents(const PieceTable& table);
std::vector<Extent> all_extents(const PieceTable& table);

}  // namespace lema
