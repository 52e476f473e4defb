// Split of the weights over files, the files one after the other, and the index.
#include "convert/sharded_writer.h"

#include <algorithm>

#include "core/error.h"
#include "formats/json.h"

namespace lema {
namespace {

constexpr int64_t kDataAlignment = 4096;  // a page: pieces can be read with O_DIRECT

}  // namespace

ShardedWriter::ShardedWriter(fs::path folder, std::vector<TensorSpec> tensors, Metadata metadata,
                             int64_t shard_bytes)
    : folder_(std::move(folder)), tensors_(std::move(tensors)), metadata_(std::move(metadata)) {
  check(!tensors_.empty() && shard_bytes >= 0, "{} tensors in shards of {} bytes", tensors_.size(),
        shard_bytes);
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const int64_t bytes = tensors_[i].shape.elements() * element_bytes(tensors_[i].dtype);
    if (shards_.empty() || (shard_bytes > 0 && shards_.back().bytes + bytes > shard_bytes))
      shards_.push_back({i, i, 0});
    shards_.back().end = i + 1;
    shards_.back().bytes += bytes;
    total_bytes_ += bytes;
  }
}

std::string ShardedWriter::file_name(size_t shard) const {
  if (shards_.size() == 1) return "model.safetensors";
  return fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, shards_.size());
}

void ShardedWriter::open_next() {
  if (file_) file_->finish();
  check(next_ < shards_.size(), "{}: more bytes than the tensors have", folder_.string());
  const Shard& shard = shards_[next_];
  const auto begin = tensors_.begin();
  const std::vector<TensorSpec> tensors(begin + static_cast<ptrdiff_t>(shard.begin),
                                        begin + static_cast<ptrdiff_t>(shard.end));
  file_.emplace(folder_ / file_name(next_), tensors, metadata_, kDataAlignment);
  remaining_ = shard.bytes;
  ++next_;
}

void ShardedWriter::write(const void* data, int64_t bytes) {
  if (remaining_ == 0) open_next();
  file_->write(data, bytes);
  remaining_ -= bytes;
}

void ShardedWriter::finish() {
  check(file_ && next_ == shards_.size(), "{}: {} of {} files written", folder_.string(), next_,
        shards_.size());
  file_->finish();
  file_.reset();
  if (shards_.size() > 1) write_index();
}

void ShardedWriter::write_index() const {
  Value::Object weight_map;
  for (size_t s = 0; s < shards_.size(); ++s)
    for (size_t i = shards_[s].begin; i < shards_[s].end; ++i)
      weight_map.emplace_back(tensors_[i].name, file_name(s));
  const Value index = Value::Object{{"metadata", Value::Object{{"total_size", total_bytes_}}},
                                    {"weight_map", std::move(weight_map)}};
  write_new_file(folder_ / "model.safetensors.index.json", dump_json(index, 2, true) + "\n");
}

}  // namespace lema
