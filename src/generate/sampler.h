// Sampler: picks the next token from logits. A pure function of its options and arguments: the same
// seed, position and sequence draw the same number on every machine. Called by the generator.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace lema {

// Filters apply in this order, as in transformers' generate: temperature, top_k, top_p.
struct SamplerOptions {
  double temperature = 0;  // divides the logits; 0: greedy
  int64_t top_k = 0;       // the k largest logits and their equals; 0: all
  double top_p = 1;        // the fewest most likely tokens whose probabilities reach it; 1: all
  uint64_t seed = 0;
};

class Sampler {
 public:
  // Usage error for a negative or non-finite temperature, a negative top_k, a top_p outside (0, 1].
  explicit Sampler(const SamplerOptions& options);

  // The next token of `sequence` at `position`. Numeric error when a logit is NaN. Of equal logits
  // greedy takes the lowest id.
  int32_t pick(std::span<const float> logits, int64_t sequence, int64_t position);

 private:
  struct Candidate {
    float logit = 0;
    int32_t id = 0;
  };
  int32_t draw(double u, double largest);

  SamplerOptions options_;
  std::vector<Candidate> candidates_;  // reused
  std::vector<double> weights_;        // reused
};

}  // namespace lema
