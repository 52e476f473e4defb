// Greedy choice, and sampling over the tokens that the filters leave.
#include "generate/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "core/rng.h"

namespace lema {
namespace {

// As wide as any x86-64 compares at once: GCC takes wider ones apart, number by number.
typedef float Floats __attribute__((vector_size(16)));
typedef int32_t Ints __attribute__((vector_size(16)));

// Index of the first of the largest. A vocabulary is long: the largest number is found by vectors,
// four side by side.
size_t largest_logit(std::span<const float> logits) {
  constexpr size_t kSide = 4, kLanes = sizeof(Floats) / sizeof(float);
  const Floats least = Floats{} - std::numeric_limits<float>::infinity();
  Floats largests[kSide] = {least, least, least, least}, part;
  Ints is_number = Ints{} - 1;
  size_t i = 0;
  for (; i + kSide * kLanes <= logits.size(); i += kSide * kLanes)
#pragma GCC unroll 4
    for (size_t v = 0; v < kSide; ++v) {
      std::memcpy(&part, &logits[i + v * kLanes], sizeof part);
      is_number &= part == part;
      largests[v] = part > largests[v] ? part : largests[v];
    }
  float max = logits[0];
  bool all_numbers = true;
  for (size_t lane = 0; lane < kLanes; ++lane) {
    for (const Floats& largest : largests) max = std::max(max, largest[lane]);
    all_numbers &= is_number[lane] != 0;
  }
  for (; i < logits.size(); ++i) {
    max = std::max(max, logits[i]);
    all_numbers &= !std::isnan(logits[i]);
  }
  const auto is_wanted = [&](float x) { return all_numbers ? x == max : std::isnan(x); };
  const auto at = std::find_if(logits.begin(), logits.end(), is_wanted);
  const auto index = static_cast<size_t>(at - logits.begin());
  if (!all_numbers) fail(ErrorCode::Numeric, "the logit of token {} is not a number", index);
  return index;
}

// 53 bits, uniform in [0, 1).
double uniform_double(uint32_t high, uint32_t low) {
  return static_cast<double>((uint64_t{high} << 32 | low) >> 11) * 0x1p-53;
}

}  // namespace

Sampler::Sampler(const SamplerOptions& options) : options_(options) {
  if (!std::isfinite(options.temperature) || options.temperature < 0)
    fail(ErrorCode::Usage, "temperature is {}, expected 0 or more", options.temperature);
  if (options.top_k < 0)
    fail(ErrorCode::Usage, "top_k is {}, expected 0 (all) or more", options.top_k);
  if (!(options.top_p > 0 && options.top_p <= 1))
    fail(ErrorCode::Usage, "top_p is {}, expected above 0 and at most 1", options.top_p);
}

int32_t Sampler::pick(std::span<const float> logits, int64_t sequence, int64_t position) {
  check(!logits.empty(), "no logits");
  const size_t best = largest_logit(logits);
  if (options_.temperature == 0 || !std::isfinite(logits[best])) return static_cast<int32_t>(best);
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i)
    candidates_.push_back({logits[i], static_cast<int32_t>(i)});
  if (options_.top_k > 0 && options_.top_k < std::ssize(candidates_)) {
    const auto kth = candidates_.begin() + options_.top_k - 1;
    std::nth_element(candidates_.begin(), kth, candidates_.end(),
                     [](const Candidate& a, const Candidate& b) { return a.logit > b.logit; });
    const float least = kth->logit;
    std::erase_if(candidates_, [least](const Candidate& c) { return c.logit < least; });
  }
  const auto words = philox(options_.seed, RngStream::Sampler, static_cast<uint64_t>(position),
                            static_cast<uint32_t>(sequence));
  return draw(uniform_double(words[0], words[1]), static_cast<double>(logits[best]));
}

// Walks the candidates from the most likely one on; weights are exp((logit - largest) /
// temperature).
int32_t Sampler::draw(double u, double largest) {
  const auto weight = [&](const Candidate& c) {
    return std::exp((static_cast<double>(c.logit) - largest) / options_.temperature);
  };
  double total = 0;
  for (const Candidate& c : candidates_) total += weight(c);
  // A heap gives the order as far as it is needed, which for a peaked distribution is a few tokens
  // of many thousands.
  const auto less_likely = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit < b.logit : a.id > b.id;
  };
  std::make_heap(candidates_.begin(), candidates_.end(), less_likely);
  const double wanted =
      options_.top_p * total;  // a token stays when those before it have not reached this
  weights_.clear();
  double kept = 0;
  auto end = candidates_.end();
  while (end != candidates_.begin() && kept < wanted) {
    std::pop_heap(candidates_.begin(), end, less_likely);
    weights_.push_back(weight(*--end));
    kept += weights_.back();
    if (options_.top_p == 1 && kept > u * total) return end->id;
  }
  double sum = 0;
  for (size_t i = 0; i < weights_.size(); ++i) {
    sum += weights_[i];
    if (sum > u * kept) return candidates_[candidates_.size() - 1 - i].id;
  }
  return candidates_[candidates_.size() - weights_.size()]
      .id;  // rounding left u beyond the last: the least likely
}

}  // namespace lema
