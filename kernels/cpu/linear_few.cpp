// One range of tasks for the columns of all parts, so that q, k and v or gate and up cost one start
// of the threads; adapters cost one more, for x A^T. A task stores its columns of y.
#include "cpu/linear_few.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "cpu/adapters.h"
#include "cpu/convert.h"
#include "cpu/matvec.h"
#include "cpu/matvec_amx.h"
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

struct Parts {
  std::array<Part, kMaxAdapters> all;
  size_t count = 0;

  // Calls body(part, begin, n) for all blocks of `block` of the width(part) columns of every part.
  // A part has up to 64 tasks: enough for as many threads, few beside a large vocabulary.
  template <typename Width, typename Body>
  void for_blocks(ThreadPool& pool, int64_t block, const Width& width, const Body& body) const {
    const auto step = [&](const Part& p) { return tile_count(width(p), 64 * block) * block; };
    std::array<int64_t, kMaxAdapters + 1> first = {};
    for (size_t p = 0; p < count; ++p)
      first[p + 1] = first[p] + (width(all[p]) > 0 ? tile_count(width(all[p]), step(all[p])) : 0);
    run(pool, first[count], [&](int64_t task) {
      size_t p = 0;
      while (task >= first[p + 1]) ++p;
      const int64_t begin = (task - first[p]) * step(all[p]),
                    end = std::min(width(all[p]), begin + step(all[p]));
      for (int64_t c = begin; c < end; c += block) body(all[p], c, std::min(block, end - c));
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
  const auto on_amx = [&](const Part& p) {
    return N > 1 && p.linear != nullptr && p.weight.row_stride == 1 && p.O >= kAmxCols &&
           few_run_on_amx(p.weight.dtype, I);
  };
  if (std::none_of(parts.all.begin(), parts.all.end(), on_amx)) return out;
  float* pairs = workspace.take(few_pairs_floats(I, x.dtype));
  pack_few_pairs(pairs, rows, N, I, x.dtype);
  out.pairs = pairs;
  return out;
}

// h of every part that has an adapter.
void low_rank(ThreadPool& pool, const Parts& parts, const FewRows& x, DType X) {
  const auto rank = [](const Part& p) { return p.h != nullptr ? p.linear->lora->a.shape[0] : 0; };
  parts.for_blocks(pool, kAmxCols, rank, [&](const Part& part, int64_t r, int64_t n) {
    const LoraView& lora = *part.linear->lora;
    float tile[kFewRows * kFewCols];
    multiply_few(tile, x, operand(lora.a).transposed().from(0, r), n, Write::Overwrite, X);
    scale_tile(tile, kFewCols, x.N, n, lora.scale);
    for (int64_t row = 0; row < x.N; ++row) {
      round_in_place(tile + row * kFewCols, X, n);
      std::copy_n(tile + row * kFewCols, n, part.h + row * rank(part) + r);
    }
  });
}

}  // namespace

void linear_few(ThreadPool& pool, Workspace& workspace, const MatrixView& y, const MatrixView& x,
                std::span<const LinearPart> linears, Write write) {
  const DType X = x.dtype;
  const Parts parts = take_parts(workspace, linears, x.rows);
  const FewRows rows = take_rows(workspace, x, parts);
  low_rank(pool, parts, rows, X);
  const auto width = [](const Part& p) { return p.O; };
  // Of weights (I, O) a block reads a piece of every row, which should not be short.
  const int64_t block = linears[0].transposed ? kFewCols : kAmxCols;
  parts.for_blocks(pool, block, width, [&](const Part& part, int64_t o, int64_t n) {
    float tile[kFewRows * kFewCols];
    multiply_few(tile, rows, part.weight.from(0, o), n, Write::Overwrite, X);
    if (part.h != nullptr) {
      const LoraView& lora = *part.linear->lora;
      const FewRows h = {rows.N, lora.a.shape[0], part.h, nullptr};
      multiply_few(tile, h, operand(lora.b).transposed().from(0, o), n, Write::Accumulate, X);
    }
    if (part.gain != nullptr) scale_columns(tile, kFewCols, rows.N, n, part.gain + o);
    store_tile(y.col_range(part.column + o, part.column + o + n), tile, kFewCols, part.linear->bias,
               o, write);
  });
}

}  // namespace lema::cpu
