// Frequencies by RopeConfig::Kind, and the rows of the table. Built with each Transformer.
#include "model/rope_table.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace lema {
namespace {

using Kind = RopeConfig::Kind;

float as_float(double x) { return static_cast<float>(x); }

// Between short wavelengths, which stay, and long ones, which are divided by the factor.
float llama3_frequency(const RopeConfig& rope, float f) {
  const float factor = as_float(rope.factor), low = as_float(rope.low_freq_factor),
              high = as_float(rope.high_freq_factor);
  const auto original = static_cast<float>(rope.original_max_positions);
  const float wavelength = 2.0f * std::numbers::pi_v<float> / f;
  if (wavelength > original / low) return f / factor;
  if (wavelength < original / high) return f;
  const float smooth = (original / wavelength - low) / (high - low);
  return (1 - smooth) * f / factor + smooth * f;
}

// Pairs of columns between which yarn's ramp rises from 0 (kept) to 1 (divided by the factor):
// those that turn beta_fast and beta_slow times within the length of the pretraining.
struct Ramp {
  double low, high;
  explicit Ramp(const RopeConfig& rope) {
    const auto pair_that_turns = [&](double rotations) {
      const double length = static_cast<double>(rope.original_max_positions);
      return static_cast<double>(rope.dim) * std::log(length / (rotations * 2 * std::numbers::pi)) /
             (2 * std::log(rope.theta));
    };
    low = pair_that_turns(rope.beta_fast);
    high = pair_that_turns(rope.beta_slow);
    if (rope.truncate) {
      low = std::floor(low);
      high = std::ceil(high);
    }
    low = std::max(low, 0.0);
    high = std::min(high, static_cast<double>(rope.dim - 1));
    if (low == high) high += 0.001;
  }
  float at(size_t pair) const {
    return std::clamp(as_float((static_cast<double>(pair) - low) / (high - low)), 0.0f, 1.0f);
  }
};

// The base of dynamic scaling for a sequence beyond max_position_embeddings.
double dynamic_base(const RopeConfig& rope, int64_t length) {
  const double stretch =
      rope.factor * static_cast<double>(length) / static_cast<double>(rope.original_max_positions);
  const auto dim = static_cast<double>(rope.dim);
  return rope.theta * std::pow(stretch - (rope.factor - 1), dim / (dim - 2));
}

// The columns of the table: an odd number of rotated columns takes one more.
int64_t table_cols(const RopeConfig& rope) { return rope.dim + rope.dim % 2; }

// Rows for every position below the switch of frequencies, and, of longrope, for all of a longer
// sequence after them.
int64_t shared_rows(const RopeConfig& rope, int64_t positions) {
  const int64_t original = rope.original_max_positions;
  if (positions <= original) return positions;
  if (rope.kind == Kind::LongRope) return original + positions;
  return rope.kind == Kind::Dynamic ? original : positions;
}

int64_t pass_rows(const RopeConfig& rope, const RopeLimits& limits) {
  return rope.kind == Kind::Dynamic && limits.positions > rope.original_max_positions
             ? limits.tokens
             : 0;
}

void fill_row(float* row, const RopeConfig& rope, const std::vector<float>& frequencies,
              int64_t position) {
  const float scale = as_float(rope.attention_factor);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const float angle = static_cast<float>(position) * frequencies[i];
    row[i] = std::cos(angle) * scale;
    row[frequencies.size() + i] = std::sin(angle) * scale;
  }
}

}  // namespace

std::vector<float> rope_inverse_frequencies(const RopeConfig& rope, int64_t length) {
  const bool is_long = length > rope.original_max_positions;
  const double base =
      rope.kind == Kind::Dynamic && is_long ? dynamic_base(rope, length) : rope.theta;
  const Ramp ramp(rope);
  std::vector<float> frequencies(static_cast<size_t>((rope.dim + 1) / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(rope.dim);
    float power = std::pow(as_float(base), exponent);
    if (rope.kind == Kind::LongRope) power *= (is_long ? rope.long_factors : rope.short_factors)[i];
    float& f = frequencies[i] = 1.0f / power;
    if (rope.kind == Kind::Linear) f /= as_float(rope.factor);
    if (rope.kind == Kind::Llama3) f = llama3_frequency(rope, f);
    if (rope.kind == Kind::Yarn)
      f = 1.0f / (as_float(rope.factor) * power) * ramp.at(i) + f * (1 - ramp.at(i));
  }
  return frequencies;
}

RopeTable::RopeTable(Device& device, const RopeConfig& rope, const RopeLimits& limits)
    : rope_(rope), device_(device) {
  if (!*this) return;
  const int64_t P = table_cols(rope);
  shared_rows_ = shared_rows(rope, limits.positions);
  const bool has_long = rope.kind == Kind::LongRope && shared_rows_ > limits.positions;
  const int64_t short_rows = has_long ? rope.original_max_positions : shared_rows_;
  std::vector<float> table(static_cast<size_t>(shared_rows_ * P));
  std::vector<float> frequencies = rope_inverse_frequencies(rope, short_rows);
  for (int64_t p = 0; p < short_rows; ++p) fill_row(table.data() + p * P, rope, frequencies, p);
  if (has_long) frequencies = rope_inverse_frequencies(rope, limits.positions);
  for (int64_t r = short_rows; r < shared_rows_; ++r)
    fill_row(table.data() + r * P, rope, frequencies, r - short_rows);
  buffer_ = device.allocate(bytes(rope, limits), "rotary table");
  if (const int64_t pinned = pinned_bytes(rope, limits); pinned > 0)
    host_ = device.allocate_pinned(pinned, "rotary table of a pass (host)");
  device.copy_async(Queue::Compute, buffer_.data(), table.data(), std::ssize(table) * 4);
  device.synchronize(Queue::Compute);
}

int64_t RopeTable::bytes(const RopeConfig& rope, const RopeLimits& limits) {
  if (rope.kind == Kind::None) return 0;
  return (shared_rows(rope, limits.positions) + pass_rows(rope, limits)) * table_cols(rope) * 4;
}

int64_t RopeTable::pinned_bytes(const RopeConfig& rope, const RopeLimits& limits) {
  return pass_rows(rope, limits) * table_cols(rope) * 4;
}

TensorView RopeTable::view() const {
  const int64_t P = table_cols(rope_);
  return {buffer_.data(), DType::F32, {buffer_.bytes() / (P * 4), P}};
}

bool RopeTable::is_alike(int64_t length, int64_t other) const {
  const int64_t original = rope_.original_max_positions;
  if (rope_.kind == Kind::LongRope) return (length > original) == (other > original);
  return rope_.kind != Kind::Dynamic || std::max(length, original) == std::max(other, original);
}

void RopeTable::map(std::span<int32_t> positions, int64_t length) {
  const int64_t original = rope_.original_max_positions;
  if (length <= original) return;
  if (rope_.kind == Kind::LongRope)
    for (int32_t& p : positions) p += static_cast<int32_t>(original);
  if (rope_.kind != Kind::Dynamic) return;
  const int64_t P = table_cols(rope_);
  check((mapped_ + std::ssize(positions)) * P * 4 <= host_.bytes(),
        "rotary rows of a pass: {} and {} more", mapped_, positions.size());
  const std::vector<float> frequencies = rope_inverse_frequencies(rope_, length);
  for (int32_t& p : positions) {
    fill_row(reinterpret_cast<float*>(host_.data()) + mapped_ * P, rope_, frequencies, p);
    p = static_cast<int32_t>(shared_rows_ + mapped_++);
  }
}

void RopeTable::map_sequences(std::span<int32_t> positions, std::span<const int32_t> sequences) {
  for (size_t s = 0; s + 3 < sequences.size(); s += 4)
    map(positions.subspan(static_cast<size_t>(sequences[s]), static_cast<size_t>(sequences[s + 1])),
        sequences[s + 3]);
}

void RopeTable::send() {
  if (mapped_ == 0) return;
  const int64_t row_bytes = table_cols(rope_) * 4;
  device_.copy_async(Queue::Compute, buffer_.data() + shared_rows_ * row_bytes, host_.data(),
                     mapped_ * row_bytes);
}

}  // namespace lema
