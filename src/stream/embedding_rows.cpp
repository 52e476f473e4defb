// Reads by row, in the order of the file, all of them asked for before the first is awaited.
#include "stream/embedding_rows.h"

#include <algorithm>
#include <chrono>

#include "core/error.h"

namespace lema {

EmbeddingRows::EmbeddingRows(const ModelFolder& folder, const PlacedField& embed, Device& device,
                             int64_t tokens)
    : file_(folder.files()[embed.file].file()),
      embed_(embed),
      row_bytes_(embed.bytes / embed.shape[0]),
      rows_(device.allocate_pinned(bytes(embed, tokens), "embedding rows of a step")),
      row_of_(static_cast<size_t>(embed.shape[0]), -1) {
  ids_.reserve(static_cast<size_t>(rows_.bytes() / row_bytes_));
}

int64_t EmbeddingRows::bytes(const PlacedField& embed, int64_t tokens) {
  return std::min(tokens, embed.shape[0]) * (embed.bytes / embed.shape[0]);
}

void EmbeddingRows::begin_pass() {
  for (const int32_t id : ids_) row_of_[static_cast<size_t>(id)] = -1;
  ids_.clear();
}

void EmbeddingRows::map(std::span<int32_t> ids) {
  for (int32_t& id : ids) {
    int32_t& row = row_of_[static_cast<size_t>(id)];
    if (row < 0) {
      row = static_cast<int32_t>(ids_.size());
      ids_.push_back(id);
    }
    id = row;
  }
  check(std::ssize(ids_) * row_bytes_ <= rows_.bytes(), "a pass of more than {} tokens",
        rows_.bytes() / row_bytes_);
}

void EmbeddingRows::read() {
  const auto start = std::chrono::steady_clock::now();
  std::vector<int32_t> order = ids_;
  std::sort(order.begin(), order.end());
  const auto place = [&](int32_t id) { return embed_.file_offset + id * row_bytes_; };
  for (const int32_t id : order) file_.will_read(row_bytes_, place(id));
  for (const int32_t id : order)
    file_.read_at(rows_.data() + row_of_[static_cast<size_t>(id)] * row_bytes_, row_bytes_,
                  place(id));
  read_bytes_ += std::ssize(order) * row_bytes_;
  const std::chrono::duration<double, std::milli> ms = std::chrono::steady_clock::now() - start;
  read_ms_ += ms.count();
}

TensorView EmbeddingRows::table() const {
  return {rows_.data(), embed_.dtype, {std::ssize(ids_), embed_.shape[1]}};
}

}  // namespace lema
