// What linear and head do with f32 tiles around the products: run tasks, load, scale, add and
// store.
#pragma once

#include <cstdint>
#include <functional>

#include "core/thread_pool.h"
#include "ops.h"

namespace lema::cpu {

inline int64_t tile_count(int64_t n, int64_t step) { return (n + step - 1) / step; }

// parallel_for without copying the body into heap memory.
template <typename Body>
void run(ThreadPool& pool, int64_t count, const Body& body) {
  pool.parallel_for(count, std::cref(body));
}

// a[i] += b[i].
void add_row(float* a, const float* b, int64_t n);
// tile (rows, cols) *= factor.
void scale_tile(float* tile, int64_t stride, int64_t rows, int64_t cols, float factor);
// tile[:, c] *= a * factors[c] + b.
void scale_columns(float* tile, int64_t stride, int64_t rows, int64_t cols, const float* factors,
                   float a = 1, float b = 0);
// tile = m as f32.
void widen_tile(float* tile, int64_t stride, const MatrixView& m);
// y (=|+=) tile + bias[begin ...]; rounded once. The tile is used up. bias may be null. PastCaches:
// as narrow_past_caches (convert.h), published at the end.
enum class Store { Cached, PastCaches };
void store_tile(const MatrixView& y, float* tile, int64_t stride, const TensorView& bias,
                int64_t begin, Write write, Store store);

}  // namespace lema::cpu
