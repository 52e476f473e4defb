// The way of one weight from a source to a ShardedWriter, in chunks of rows: read, check that every
// number is finite, change (merge), round to the output's type, check again, write. Memory is a few
// chunks, whatever the model.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "convert/progress.h"
#include "convert/sharded_writer.h"

namespace lema {

// Numbers in flight: 2 Mi (8 MiB in f32), or one row where a row is longer.
inline constexpr int64_t kChunkElements = int64_t{2} << 20;

// One weight of a source.
struct WeightSource {
  std::string name;          // Hugging Face
  std::string place;         // for messages: "PATH: tensor NAME"
  DType dtype = DType::F32;  // of what read() gives: F32, BF16 or F16
  Shape shape;               // at least one dimension, none of size 0
  // Rows [begin, end) of the first dimension to `out`, (end - begin) * elements of a row.
  std::function<void(int64_t begin, int64_t end, std::byte* out)> read;
};

// Changes rows [begin, end) in place; values ((end - begin), elements of a row) f32, finite.
using EditRows = std::function<void(float* values, int64_t begin, int64_t end)>;

// Copies weights in the order of the writer's tensors.
class WeightCopier {
 public:
  // `report` is called with stage "writing". Both outlive the object.
  WeightCopier(ShardedWriter& writer, const ReportProgress& report)
      : writer_(writer), report_(report) {}

  // The next tensor of the writer, which has the source's name and shape. Rounds to nearest even
  // where the dtypes differ or `edit` is given. BadInput, naming tensor and element, for a number
  // that is not finite or is too large for the type.
  void copy(const WeightSource& source, const EditRows& edit = {});
  // Reads a weight without writing it; `use` may change what it is given.
  void visit(const WeightSource& source, const EditRows& use);

 private:
  // Reads and checks the source in chunks and calls use(begin, end) for each, in in_.
  template <typename Use>
  void for_each_chunk(const WeightSource& source, const Use& use);
  void round_chunk(const WeightSource& source, DType to, const EditRows& edit, int64_t begin,
                   int64_t end);

  ShardedWriter& writer_;
  const ReportProgress& report_;
  std::vector<std::byte> in_, out_;
  std::vector<float> values_;
  size_t next_ = 0;
  int64_t done_bytes_ = 0;
};

// Index of the first infinity or NaN among n numbers of F32, BF16 or F16, -1 when there is none.
int64_t find_nonfinite(const void* data, DType dtype, int64_t n);

}  // namespace lema
