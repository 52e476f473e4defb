// Chunks of weights: the finite check, and the conversions of the CPU kernels.
#include "convert/weight_copy.h"

#include <algorithm>

#include "core/error.h"
#include "cpu/convert.h"

namespace lema {
namespace {

// A number whose exponent bits are all ones is an infinity or a NaN.
template <typename Bits>
bool any_nonfinite(const Bits* in, size_t n, Bits exponent) {
  Bits found = 0;
  for (size_t i = 0; i < n; ++i)
    found = static_cast<Bits>(found | ((in[i] & exponent) == exponent));
  return found != 0;
}

template <typename Bits>
int64_t find_nonfinite(const Bits* in, int64_t n, Bits exponent) {
  constexpr size_t kBlock =
      4096;  // a constant trip count, which the compiler turns into vector code
  int64_t begin = 0;
  while (begin + static_cast<int64_t>(kBlock) <= n && !any_nonfinite(in + begin, kBlock, exponent))
    begin += kBlock;
  for (int64_t i = begin; i < n; ++i)
    if ((in[i] & exponent) == exponent) return i;
  return -1;
}

// Flat index as "[row, column]".
std::string coordinates(const Shape& shape, int64_t flat) {
  std::vector<int64_t> at(static_cast<size_t>(shape.rank()));
  for (int i = shape.rank(); i-- > 0; flat /= shape[i])
    at[static_cast<size_t>(i)] = flat % shape[i];
  return fmt::format("[{}]", fmt::join(at, ", "));
}

float number_at(const std::byte* data, DType dtype, int64_t i) {
  float x = 0;
  cpu::widen(&x, data + i * element_bytes(dtype), dtype, 1);
  return x;
}

}  // namespace

int64_t find_nonfinite(const void* data, DType dtype, int64_t n) {
  switch (dtype) {
    case DType::F32:
      return find_nonfinite<uint32_t>(static_cast<const uint32_t*>(data), n, 0x7f800000u);
    case DType::BF16:
      return find_nonfinite<uint16_t>(static_cast<const uint16_t*>(data), n, 0x7f80);
    case DType::F16:
      return find_nonfinite<uint16_t>(static_cast<const uint16_t*>(data), n, 0x7c00);
    default:
      fail(ErrorCode::Internal, "no finite check for {}", name(dtype));
  }
}

template <typename Use>
void WeightCopier::for_each_chunk(const WeightSource& source, const Use& use) {
  const int64_t rows = source.shape[0], row = source.shape.elements() / rows;
  const int64_t step = std::clamp<int64_t>(kChunkElements / row, 1, rows);
  in_.resize(static_cast<size_t>(step * row * element_bytes(source.dtype)));
  for (int64_t begin = 0; begin < rows; begin += step) {
    const int64_t end = std::min(rows, begin + step), count = (end - begin) * row;
    source.read(begin, end, in_.data());
    if (const int64_t bad = find_nonfinite(in_.data(), source.dtype, count); bad >= 0)
      fail(ErrorCode::BadInput, "{}: element {} is {}; a model's weights are finite numbers",
           source.place, coordinates(source.shape, begin * row + bad),
           number_at(in_.data(), source.dtype, bad));
    use(begin, end);
  }
}

void WeightCopier::copy(const WeightSource& source, const EditRows& edit) {
  const TensorSpec& target = writer_.tensors()[next_++];
  check(target.name == source.name && target.shape == source.shape, "{} {} is written as {} {}",
        source.name, source.shape.str(), target.name, target.shape.str());
  const int64_t row = source.shape.elements() / source.shape[0];
  for_each_chunk(source, [&](int64_t begin, int64_t end) {
    const bool as_is = !edit && source.dtype == target.dtype;
    if (!as_is) round_chunk(source, target.dtype, edit, begin, end);
    const int64_t bytes = (end - begin) * row * element_bytes(target.dtype);
    writer_.write(as_is ? in_.data() : out_.data(), bytes);
    done_bytes_ += bytes;
    report_({"writing", done_bytes_, writer_.total_bytes()});
  });
}

void WeightCopier::visit(const WeightSource& source, const EditRows& use) {
  const int64_t row = source.shape.elements() / source.shape[0];
  for_each_chunk(source, [&](int64_t begin, int64_t end) {
    values_.resize(static_cast<size_t>((end - begin) * row));
    cpu::widen(values_.data(), in_.data(), source.dtype, (end - begin) * row);
    use(values_.data(), begin, end);
  });
}

// in_ -> values_ -> out_.
void WeightCopier::round_chunk(const WeightSource& source, DType to, const EditRows& edit,
                               int64_t begin, int64_t end) {
  const int64_t row = source.shape.elements() / source.shape[0], count = (end - begin) * row;
  values_.resize(static_cast<size_t>(count));
  out_.resize(static_cast<size_t>(count * element_bytes(to)));
  cpu::widen(values_.data(), in_.data(), source.dtype, count);
  if (edit) edit(values_.data(), begin, end);
  cpu::narrow(out_.data(), to, values_.data(), count);
  if (const int64_t bad = find_nonfinite(out_.data(), to, count); bad >= 0)
    fail(ErrorCode::BadInput, "{}: element {} is {}, beyond the range of {}; give a wider --dtype",
         source.place, coordinates(source.shape, begin * row + bad),
         values_[static_cast<size_t>(bad)], name(to));
}

}  // namespace lema
