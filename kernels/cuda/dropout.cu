// Philox words per element, four to a counter.
#include "core/rng.h"
#include "cuda/dropout.h"
#include "cuda/elementwise.cuh"
#include "cuda/types.cuh"
#include "dispatch.h"

namespace lema::cuda {
namespace {

struct Mask {
  uint64_t key;
  float dropout;
  int64_t first_row;
  MaskedColumns columns;
  Mask(const LoraView& lora, MaskedColumns columns_)
      : key(lora.dropout_key),
        dropout(lora.dropout),
        first_row(lora.first_row),
        columns(columns_) {}

  // x[i] stays where element (n, c + i) is kept, else becomes 0.
  template <int N>
  __device__ void apply(Floats<N>& x, int64_t n, int64_t c) const {
    const auto first = static_cast<uint64_t>((first_row + n) * columns.width + columns.begin + c);
    std::array<uint32_t, 4> words = philox(key, RngStream::Dropout, first / 4);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const uint64_t index = first + static_cast<uint64_t>(i);
      const auto lane = static_cast<uint32_t>(index % 4);
      if (i > 0 && lane == 0) words = philox(key, RngStream::Dropout, index / 4);
      const uint32_t low = lane == 0 ? words[0] : words[1], high = lane == 2 ? words[2] : words[3];
      if (!(uniform(lane < 2 ? low : high) >= dropout)) x[i] = 0;
    }
  }
};

template <typename X>
struct Drop {
  Rows<X> to, from;
  Mask mask;
  template <int N>
  __device__ void run(int64_t n, int64_t c) const {
    Floats<N> x = load<N>(from.at(n, c));
    mask.apply(x, n, c);
    store<N>(to.at(n, c), x);
  }
};

struct AddKept {
  Rows<float> sum, from;
  Mask mask;
  Write write;
  template <int N>
  __device__ void run(int64_t n, int64_t c) const {
    Floats<N> x = load<N>(from.at(n, c));
    mask.apply(x, n, c);
    store<N>(sum.at(n, c), x, write);
  }
};

}  // namespace

void drop(cudaStream_t stream, MatrixView to, MatrixView from, const LoraView& lora,
          MaskedColumns columns) {
  with_storage(to.dtype, [&]<typename X>(Type<X>) {
    for_elements<kPack<X>>(stream, "drop", to.rows, to.cols, is_packed(to) && is_packed(from),
                           Drop<X>{to, from, Mask(lora, columns)});
  });
}

void add_kept(cudaStream_t stream, MatrixView sum, MatrixView from, const LoraView& lora,
              MaskedColumns columns, Write write) {
  for_elements<4>(stream, "add_kept", sum.rows, sum.cols, is_packed(sum) && is_packed(from),
                  AddKept{sum, from, Mask(lora, columns), write});
}

}  // namespace lema::cuda
