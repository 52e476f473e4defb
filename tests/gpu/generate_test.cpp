// Inference on a GPU against the CPU: logits with a cache and without, losses of rows, adapters.
#include <cmath>
#include <numeric>

#include "generate/generator.h"
#include "generate/row_losses.h"
#include "support/catch.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"

using namespace lema;
using namespace lema::test;

namespace {

const OpenOptions kCpu{{}, "f32", 1, "cpu"}, kGpu{{}, "f32", 1, "cuda"};

std::vector<int32_t> ids_from(int64_t seed, int64_t count) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i)
    ids.push_back(
        static_cast<int32_t>((seed * 7919 + i * i * 31 + i * 17) % testing::kTinyVocabulary));
  return ids;
}

std::vector<float> values(const MatrixView& logits) {
  const auto* begin = static_cast<const float*>(logits.data);
  return {begin, begin + logits.rows * logits.cols};
}

// The largest difference over the largest value.
double relative_difference(const std::vector<float>& found, const std::vector<float>& expected) {
  REQUIRE(found.size() == expected.size());
  double difference = 0, largest = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    if (!std::isfinite(found[i])) return INFINITY;
    difference = std::max(difference, std::abs(double{found[i]} - double{expected[i]}));
    largest = std::max(largest, std::abs(double{expected[i]}));
  }
  return difference / largest;
}

}  // namespace

TEST_CASE("gpu: logits over a cache are the CPU's to rounding") {
  const TinyModelOptions options =
      GENERATE(TinyModelOptions(), TinyModelOptions{Family::Gpt2}, tiny_qwen3(), tiny_phi3());
  const TempFolder temp("gpu_logits");
  write_tiny_model(temp.path() / "model", options);
  const ModelFolder folder(temp.path() / "model");
  Inference cpu(folder, kCpu, 3, 64), gpu(folder, kGpu, 3, 64);
  const auto both = [&](const std::vector<Feed>& feeds) {
    const std::vector<float> expected = values(cpu.append(feeds));
    CHECK(relative_difference(values(gpu.append(feeds)), expected) < 1e-4);
  };
  const std::vector<int32_t> first = ids_from(1, 40), second = ids_from(2, 7), one = {5};
  both({{0, first}, {2, second}});
  both({{0, one}, {1, second}, {2, one}});
  for (Inference* inference : {&cpu, &gpu}) inference->truncate(0, 11);
  both({{0, second}, {1, one}});
}

TEST_CASE("gpu: losses of rows are the CPU's to rounding") {
  const TinyModelOptions options = GENERATE(TinyModelOptions(), TinyModelOptions{Family::Gpt2});
  const TempFolder temp("gpu_losses");
  write_tiny_model(temp.path() / "model", options);
  const ModelFolder folder(temp.path() / "model");
  Dataset dataset;
  for (const int64_t length : {9, 70, 33}) {
    Row row{ids_from(length, length), std::vector<uint8_t>(static_cast<size_t>(length), 1), length};
    row.trained[0] = 0;
    dataset.rows.push_back(row);
    dataset.tokens += length;
    dataset.longest_row_tokens = std::max(dataset.longest_row_tokens, length);
  }
  const auto cpu = row_losses(folder, kCpu, dataset, [](int64_t) {}),
             gpu = row_losses(folder, kGpu, dataset, [](int64_t) {});
  for (size_t r = 0; r < dataset.rows.size(); ++r)
    CHECK(relative_difference(gpu[r].losses, cpu[r].losses) < 1e-5);
}
