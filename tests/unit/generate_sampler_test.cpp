// The sampler: what the filters leave, how often each token comes, and that a draw depends on its
// arguments alone.
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "generate/sampler.h"
#include "support/catch.h"
#include "support/temp_folder.h"

using namespace lema;

namespace {

std::map<int32_t, int64_t> counts(const SamplerOptions& options, const std::vector<float>& logits,
                                  int64_t draws) {
  Sampler sampler(options);
  std::map<int32_t, int64_t> result;
  for (int64_t i = 0; i < draws; ++i) ++result[sampler.pick(logits, 0, i)];
  return result;
}

std::set<int32_t> support(const SamplerOptions& options, const std::vector<float>& logits) {
  std::set<int32_t> ids;
  for (const auto& [id, count] : counts(options, logits, 2000)) ids.insert(id);
  return ids;
}

std::vector<float> logits_of(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

// Pearson's statistic of the counts against softmax(logits / temperature).
double chi_square(const std::vector<float>& logits, double temperature,
                  const SamplerOptions& options, int64_t draws) {
  double total = 0;
  for (float x : logits) total += std::exp(static_cast<double>(x) / temperature);
  auto observed = counts(options, logits, draws);
  double sum = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double expected =
        static_cast<double>(draws) * std::exp(static_cast<double>(logits[i]) / temperature) / total;
    const double difference = static_cast<double>(observed[static_cast<int32_t>(i)]) - expected;
    sum += difference * difference / expected;
  }
  return sum;
}

}  // namespace

TEST_CASE("sampler: greedy takes the largest logit and the lowest id of equals") {
  Sampler greedy({});
  CHECK(greedy.pick(std::vector<float>{1, 3, 3, 2}, 0, 0) == 1);
  CHECK(greedy.pick(std::vector<float>{-5}, 7, 9) == 0);
  CHECK(greedy.pick(std::vector<float>{-std::numeric_limits<float>::infinity(), -1}, 0, 0) == 1);
  // In every place of a row longer than the vectors of a round; a NaN anywhere is found.
  for (size_t at = 0; at < 59; ++at) {
    std::vector<float> logits(59, -2);
    logits[at] = logits.back() = -1;
    CHECK(greedy.pick(logits, 0, 0) == static_cast<int32_t>(at));
    logits[at] = std::nanf("");
    CHECK_THROWS_AS(greedy.pick(logits, 0, 0), Error);
  }
}

TEST_CASE("sampler: frequencies are those of the softmax") {
  const std::vector<float> logits = {0.5f, -1, 2, 0, 1.25f};
  // 4 degrees of freedom: 18.5 is exceeded once in a thousand; the draws are fixed by the seed.
  for (double temperature : {0.5, 1.0, 2.0})
    CHECK(chi_square(logits, temperature, {temperature, 0, 1, 11}, 20000) < 18.5);
  CHECK(chi_square(logits, 1.0, {0.5, 0, 1, 11}, 20000) > 100);
}

TEST_CASE("sampler: top_k keeps the k largest and their equals") {
  const std::vector<float> logits = {1, 2, 0, 2, -1};
  CHECK(support({1, 1, 1, 3}, logits) == std::set<int32_t>{1, 3});
  CHECK(support({1, 2, 1, 3}, logits) == std::set<int32_t>{1, 3});
  CHECK(support({1, 3, 1, 3}, logits) == std::set<int32_t>{0, 1, 3});
  CHECK(support({1, 9, 1, 3}, logits).size() == 5);
}

TEST_CASE("sampler: top_p keeps the fewest tokens that reach it, the likeliest always") {
  const std::vector<float> logits = logits_of({0.1, 0.5, 0.15, 0.25});
  CHECK(support({1, 0, 0.3, 5}, logits) == std::set<int32_t>{1});
  CHECK(support({1, 0, 0.6, 5}, logits) == std::set<int32_t>{1, 3});
  CHECK(support({1, 0, 0.8, 5}, logits) == std::set<int32_t>{1, 2, 3});
  CHECK(support({1, 0, 0.95, 5}, logits).size() == 4);
  CHECK(support({1, 0, 1e-9, 5}, logits) == std::set<int32_t>{1});
  // Half the probability is reached by one of two equals.
  CHECK(support({1, 0, 0.5, 5}, {0, 0}) == std::set<int32_t>{0});
}

TEST_CASE("sampler: temperature comes before top_p and top_k before top_p") {
  // At temperature 1 the first token has 0.64; at 4 it has 0.36 and the second is needed.
  const std::vector<float> logits = logits_of({0.64, 0.16, 0.1, 0.1});
  CHECK(support({1, 0, 0.5, 5}, logits).size() == 1);
  CHECK(support({4, 0, 0.5, 5}, logits).size() == 2);
  // Of the two that top_k leaves the first has 0.8.
  CHECK(support({1, 0, 0.7, 5}, logits).size() == 2);
  CHECK(support({1, 2, 0.7, 5}, logits).size() == 1);
}

TEST_CASE("sampler: a draw depends on seed, sequence and position only") {
  const std::vector<float> logits(50, 0.0f);
  const SamplerOptions options{1, 0, 0.9, 5};
  Sampler one(options), other(options);
  std::vector<int32_t> forward, backward;
  for (int64_t i = 0; i < 64; ++i) forward.push_back(one.pick(logits, 2, i));
  for (int64_t i = 63; i >= 0; --i) backward.insert(backward.begin(), other.pick(logits, 2, i));
  CHECK(forward == backward);

  std::vector<int32_t> sequence, seed;
  Sampler reseeded({1, 0, 0.9, 6});
  for (int64_t i = 0; i < 64; ++i) {
    sequence.push_back(one.pick(logits, 3, i));
    seed.push_back(reseeded.pick(logits, 2, i));
  }
  CHECK(sequence != forward);
  CHECK(seed != forward);
}

TEST_CASE("sampler: refuses bad options and logits that are not numbers") {
  const auto refusal = [](const SamplerOptions& options) {
    return message_of(ErrorCode::Usage, [&] { Sampler sampler(options); });
  };
  CHECK(contains(refusal({-1, 0, 1, 0}), "temperature"));
  CHECK(contains(refusal({std::nan(""), 0, 1, 0}), "temperature"));
  CHECK(contains(refusal({1, -1, 1, 0}), "top_k"));
  CHECK(contains(refusal({1, 0, 0, 0}), "top_p"));
  CHECK(contains(refusal({1, 0, 1.5, 0}), "top_p"));
  Sampler sampler({1, 0, 1, 0});
  const std::string message = message_of(ErrorCode::Numeric, [&] {
    sampler.pick(std::vector<float>{0, std::nanf("")}, 0, 0);
  });
  CHECK(contains(message, "token 1"));
}
