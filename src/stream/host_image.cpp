// Cutting extents into windows.
#include "stream/host_image.h"

#include <algorithm>

#include "core/error.h"

namespace lema {
namespace {

Extent extent_of(const PlacedField& field) {
  return {field.file, field.file_offset, 0, field.bytes};
}

void append(std::vector<Extent>& to, const std::vector<Extent>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

}  // namespace

HostImage::HostImage(std::vector<Extent> extents) {
  std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) {
    return std::pair(a.file, a.file_offset) < std::pair(b.file, b.file_offset);
  });
  for (const Extent& extent : extents) {
    const int64_t begin = extent.file_offset / kDiskBlock * kDiskBlock;
    const int64_t end = extent.file_offset + extent.bytes;
    if (windows_.empty() || windows_.back().file != extent.file ||
        windows_.back().begin + windows_.back().bytes < begin)
      windows_.push_back({extent.file, begin, 0, 0, 0});
    Window& window = windows_.back();
    window.needed = std::max(window.needed, end - window.begin);
    window.bytes = (window.needed + kDiskBlock - 1) / kDiskBlock * kDiskBlock;
  }
  for (Window& window : windows_) {
    window.image_offset = bytes_;
    bytes_ += window.bytes;
  }
}

const Window& HostImage::window_of(size_t file, int64_t file_offset) const {
  const auto after = std::upper_bound(
      windows_.begin(), windows_.end(), std::pair(file, file_offset),
      [](const auto& place, const Window& w) { return place < std::pair(w.file, w.begin); });
  check(after != windows_.begin(), "byte {} of file {} is in no window", file_offset, file);
  const Window& window = *(after - 1);
  check(window.file == file && file_offset < window.begin + window.needed,
        "byte {} of file {} is in no window", file_offset, file);
  return window;
}

int64_t HostImage::offset_of(size_t file, int64_t file_offset) const {
  const Window& window = window_of(file, file_offset);
  return window.image_offset + file_offset - window.begin;
}

HostImage HostImage::part(std::vector<Extent> extents, std::vector<bool>& taken) const {
  HostImage part;
  for (const Window& wanted : HostImage(std::move(extents)).windows_) {
    const Window& whole = window_of(wanted.file, wanted.begin);
    for (int64_t at = wanted.begin; at < wanted.begin + wanted.bytes; at += kDiskBlock) {
      const int64_t image_offset = whole.image_offset + at - whole.begin;
      const auto block = static_cast<size_t>(image_offset / kDiskBlock);
      if (taken[block]) continue;
      taken[block] = true;
      if (part.windows_.empty() || part.windows_.back().file != wanted.file ||
          part.windows_.back().begin + part.windows_.back().bytes != at)
        part.windows_.push_back({wanted.file, at, 0, 0, image_offset});
      Window& window = part.windows_.back();
      window.bytes += kDiskBlock;
      window.needed = std::min(window.bytes, whole.begin + whole.needed - window.begin);
      part.bytes_ += kDiskBlock;
    }
  }
  return part;
}

std::vector<Extent> unit_extents(const Unit& unit) {
  std::vector<Extent> extents;
  for (const Piece& piece : unit.pieces) append(extents, piece.extents);
  return extents;
}

std::vector<Extent> small_extents(const PieceTable& table) {
  std::vector<Extent> extents;
  for (const PlacedField& field : table.positions) extents.push_back(extent_of(field));
  for (const PlacedField& field : table.final_norm) extents.push_back(extent_of(field));
  return extents;
}

std::vector<Extent> all_extents(const PieceTable& table) {
  std::vector<Extent> extents = small_extents(table);
  extents.push_back(extent_of(table.embed));
  for (int64_t u = 0; u < table.unit_count(); ++u) append(extents, unit_extents(table.unit(u)));
  return extents;
}

}  // namespace lema
