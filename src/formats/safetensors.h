// The safetensors container: a validated index of a file's tensors, and a writer.
//
//   file   = u64 little-endian header_bytes, header, data
//   header = JSON object {"__metadata__": {string: string}, NAME: {"dtype", "shape",
//   "data_offsets": [begin, end]}}
//            starting with '{', space-padded at its end
//   data   = the tensors without hole or overlap, row-major, little-endian
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/dtype.h"
#include "core/file.h"
#include "core/tensor.h"

namespace lema {

struct TensorEntry {
  std::string name;
  DType dtype = DType::F32;
  Shape shape;
  int64_t offset = 0;  // from the start of the file
  int64_t bytes = 0;
};

using Metadata = std::vector<std::pair<std::string, std::string>>;

// An open file whose header passed every check of the format before anything was allocated by its
// word.
class SafetensorsFile {
 public:
  // BadInput "PATH: reason" for all that is malformed; names are printed escaped.
  explicit SafetensorsFile(const fs::path& path);

  const std::vector<TensorEntry>& tensors() const { return tensors_; }  // in file order
  const TensorEntry* find(std::string_view name) const;                 // nullptr when absent
  const Metadata& metadata() const { return metadata_; }
  int64_t data_offset() const { return data_offset_; }  // first byte of the data
  const File& file() const { return file_; }
  // Reads one whole tensor. Threads: concurrent.
  void read(const TensorEntry& tensor, void* out) const {
    file_.read_at(out, tensor.bytes, tensor.offset);
  }

 private:
  File file_;
  std::vector<TensorEntry> tensors_;
  std::unordered_map<std::string, size_t> by_name_;
  Metadata metadata_;
  int64_t data_offset_ = 0;
};

// A tensor to be written.
struct TensorSpec {
  std::string name;
  DType dtype = DType::F32;
  Shape shape;
};

// Writes header and data in one pass, tensors in the order given. The file appears under `path` at
// once (the caller stages and renames) and is complete after finish().
class SafetensorsWriter {
 public:
  // The header is padded so that the data starts at a multiple of `data_alignment` (a power of two,
  // >= 8). Usage error when the header would exceed 100 MB.
  SafetensorsWriter(const fs::path& path, const std::vector<TensorSpec>& tensors,
                    const Metadata& metadata, int64_t data_alignment = 8);
  // Appends bytes of the next tensor(s); the sum over all calls must be the sum of the tensors'
  // bytes.
  void write(const void* data, int64_t bytes);
  // Checks that everything was written, syncs and closes.
  void finish();

 private:
  File file_;
  int64_t remaining_ = 0;
};

// The order of the reference writer: dtype descending in DType's order, then name.
void sort_as_reference_writer(std::vector<TensorSpec>& tensors);

}  // namespace lema
