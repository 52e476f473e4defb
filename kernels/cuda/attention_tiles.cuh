// How a packed call is cut into tiles without the host knowing any length: the grid has room for
// every sequence's last, partial tile, and each block finds its tile in the table of sequences.
#pragma once

#include <cstdint>

namespace lema::cuda {

struct Sequence {
  int q_begin, q_len, kv_begin, kv_len;
  // The first and the last key that query i sees.
  __device__ int last_key(int i) const { return kv_len - q_len + i; }
  __device__ int first_key(int i, int window) const {
    return window == 0 ? 0 : max(0, last_key(i) - window + 1);
  }
};

// Tiles of `rows` rows that any call of `total` rows in `count` sequences can have.
inline int64_t tile_bound(int64_t total, int64_t count, int64_t rows) {
  return total / rows + count;
}

// Tile `index` of all: its sequence, and the first of its rows. Late tiles of a sequence come
// first: under the causal mask they have the most keys. False past the last tile. All lanes of a
// warp call it. kByKey: tiles are of keys, early ones first, since those have the most queries.
template <bool kByKey>
__device__ bool find_tile(const int32_t* table, int count, int rows, int index, Sequence& sequence,
                          int& first_row) {
  const int lane = threadIdx.x % 32;
  for (int begin = 0; begin < count; begin += 32) {
    const int s = begin + lane;
    int tiles = 0;
    if (s < count) tiles = (table[4 * s + (kByKey ? 3 : 1)] + rows - 1) / rows;
    int up_to = tiles;  // inclusive sum over the lanes
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int below = __shfl_up_sync(0xffffffffu, up_to, offset);
      if (lane >= offset) up_to += below;
    }
    const int all = __shfl_sync(0xffffffffu, up_to, 31);
    if (index >= all) {
      index -= all;
      continue;
    }
    const int owner = __ffs(static_cast<int>(__ballot_sync(0xffffffffu, up_to > index))) - 1;
    const int own_tiles = __shfl_sync(0xffffffffu, tiles, owner),
              own_end = __shfl_sync(0xffffffffu, up_to, owner);
    const int within = index - (own_end - own_tiles);
    const int32_t* row = table + 4 * (begin + owner);
    sequence = {row[0], row[1], row[2], row[3]};
    first_row = (kByKey ? within : own_tiles - 1 - within) * rows;
    return true;
  }
  return false;
}

}  // namespace lema::cuda
