// One range of tasks for the columns of all parts, so that q, k and v or gate and up cost one start
// of the threads; adapters cost one more, for x A^T. A task stores its columns of y.
#include "cpu/linear_few.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "cpu/adapters.h"
#include "cpu/convert.h"
#include "cpu/matvec.h"
#include "cpu/matvec_pairs.h"
#include "cpu/tile.h"

namespace lema::cpu {
namespace {

struct Part {
  const LinearPart* linear = nullptr;
  Operand weight;  // (I, O)
  int64_t O = 0;
  int64_t column = 0;           // where it begins in y
  float* h = nullptr;           // (N, R) f32, scale x A^T rounded to X; null: no adapter
  const float* gain = nullptr;  // (O) of a magnitude, or null
};

// The weight behind some columns of outputs: a column reads I elements of it.
struct Columns {
  int64_t count = 0, I = 0;
  DType dtype = DType::F32;
};

// The first rows of a task's weights are not asked for ahead: little of so many. With a large
// vocabulary a task is one of 64.
constexpr int64_t kTaskBytes = 96 << 10;
int64_t task_columns(const Columns& columns, int64_t block) {
  const int64_t block_bytes = block * columns.I * element_bytes(columns.dtype);
  return block *
         std::max(tile_count(columns.count, 64 * block), tile_count(kTaskBytes, block_bytes));
}

struct Parts {
  std::array<Part, kMaxAdapters> all;
  size_t count = 0;

  // Calls body(part, begin, n, goes_on) for all blocks of `block` of the columns(part) of every
  // part; goes_on: the same task has the next block.
  template <typename ColumnsOf, typename Body>
  void for_blocks(ThreadPool& pool, int64_t block, const ColumnsOf& columns,
                  const Body& body) const {
    std::array<int64_t, kMaxAdapters> step = {};
    std::array<int64_t, kMaxAdapters + 1> first = {};
    for (size_t p = 0; p < count; ++p) {
      step[p] = task_columns(columns(all[p]), block);
      first[p + 1] = first[p] + tile_count(columns(all[p]).count, step[p]);
    }
    run(pool, first[count], [&](int64_t task) {
      size_t p = 0;
      while (task >= first[p + 1]) ++p;
      const int64_t begin = (task - first[p]) * step[p],
                    end = std::min(columns(all[p]).count, begin + step[p]);
      for (int64_t c = begin; c < end; c += block)
        body(all[p], c, std::min(block, end - c), c + block < end);
    });
  }
};

Parts take_parts(Workspace& workspace, std::span<const LinearPart> parts, int64_t N) {
  Parts out;
  check(parts.size() <= out.all.size(), "linear: {} parts", parts.size());
  int64_t column = 0;
  for (const LinearPart& part : parts) {
    Part& p = out.all[out.count++];
    const Operand w = operand(part.weight);
    p = {&part, part.transposed ? w : w.transposed(), part.out(), column, nullptr, nullptr};
    column += p.O;
    if (part.lora == nullptr) continue;
    p.h = workspace.take(N * part.lora->a.shape[0]);
    if (part.lora->magnitude) p.gain = take_gain(workspace, *part.lora);
  }
  return out;
}

FewRows take_rows(Workspace& workspace, const MatrixView& x, const Parts& parts) {
  const int64_t N = x.rows, I = x.cols;
  float* rows = workspace.take(N * I);
  widen_tile(rows, I, x);
  FewRows out{N, I, rows, nullptr};
  const auto in_pairs = [&](const Part& p) {
    return p.linear != nullptr && p.weight.row_stride == 1 && p.O >= kPairCols &&
           few_run_in_pairs(p.weight.dtype, N, I, x.dtype);
  };
  if (std::none_of(parts.all.begin(), parts.all.end(), in_pairs)) return out;
  float* pairs = workspace.take(few_pairs_floats(I, x.dtype));
  pack_few_pairs(pairs, rows, N, I, x.dtype);
  out.pairs = pairs;
  return out;
}

// h of every part that has an adapter.
void low_rank(ThreadPool& pool, const Parts& parts, const FewRows& x, DType X) {
  const auto columns = [&](const Part& p) {
    return Columns{p.h != nullptr ? p.linear->lora->a.shape[0] : 0, x.I, DType::F32};
  };
  const auto multiply = [&](const Part& part, int64_t r, int64_t n, bool goes_on) {
    const LoraView& lora = *part.linear->lora;
    const Operand a = operand(lora.a).transposed().from(0, r);
    float tile[kFewRows * kFewCols];
    multiply_few(tile, x, a, n, Write::Overwrite, X, goes_on);
    scale_tile(tile, kFewCols, x.N, n, lora.scale);
    for (int64_t row = 0; row < x.N; ++row) {
      round_in_place(tile + row * kFewCols, X, n);
      std::copy_n(tile + row * kFewCols, n, part.h + row * lora.a.shape[0] + r);
    }
  };
  parts.for_blocks(pool, kPairCols, columns, multiply);
}

}  // namespace

void linear_few(ThreadPool& pool, Workspace& workspace, const MatrixView& y, const MatrixView& x,
                std::span<const LinearPart> linears, Write write) {
  const DType X = x.dtype;
  const Parts parts = take_parts(workspace, linears, x.rows);
  const FewRows rows = take_rows(workspace, x, parts);
  low_rank(pool, parts, rows, X);
  const auto columns = [&](const Part& p) { return Columns{p.O, rows.I, p.weight.dtype}; };
  // Of weights (I, O) a block reads a piece of every row, which should not be short.
  const int64_t block = linears[0].transposed ? kFewCols : kPairCols;
  parts.for_blocks(pool, block, columns, [&](const Part& part, int64_t o, int64_t n, bool goes_on) {
    float tile[kFewRows * kFewCols];
    multiply_few(tile, rows, part.weight.from(0, o), n, Write::Overwrite, X, goes_on);
    if (part.h != nullptr) {
      const LoraView& lora = *part.linear->lora;
      const FewRows h = {rows.N, lora.a.shape[0], part.h, nullptr};
      multiply_few(tile, h, operand(lora.b).transposed().from(0, o), n, Write::Accumulate, X);
    }
    if (part.gain != nullptr) scale_columns(tile, kFewCols, rows.N, n, part.gain + o);
    store_tile(y.col_range(part.column + o, part.column + o + n), tile, kFewCols, part.linear->bias,
               o, write, Store::Cached);
  });
}

}  // namespace lema::cpu
