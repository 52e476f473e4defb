// Inference on a GPU against the CPU: logits with a cache and without, losses of rows, adapters.
#include <cmath>
#include <numeric>

#include "generate/generator.h"
#include "generate/row_losses.h"
#include "support/catch.h"
#include "support/inference_case.h"

using namespace lema;
using namespace lema::test;

namespace {

const OpenOptions kCpu{{}, "f32", 1, "cpu"}, kGpu{{}, "f32", 1, "cuda"};

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
  const TinyModel model("gpu_logits", options);
  Inference cpu(model.folder, kCpu, 3, 64), gpu(model.folder, kGpu, 3, 64);
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

TEST_CASE("gpu: logits and losses are the same bits with little host memory") {
  const Family family = GENERATE(Family::Llama, Family::Gpt2);
  const TinyModel model("gpu_ram", {family, 5, DType::BF16, family == Family::Gpt2});
  const Dataset dataset = dataset_of({ids_from(9, 9), ids_from(70, 70)});
  const auto results = [&](int64_t ram) {
    OpenOptions options = kGpu;
    options.ram_bytes = ram;
    Inference inference(model.folder, options, 1, 64);
    std::vector<float> all = values(inference.append(std::vector<Feed>{{0, dataset.rows[0].ids}}));
    for (const RowLoss& loss : row_losses(model.folder, options, dataset, [](int64_t) {}))
      all.insert(all.end(), loss.losses.begin(), loss.losses.end());
    return all;
  };
  const int64_t whole = HostImage(all_extents(make_piece_table(model.folder))).bytes();
  CHECK(results(whole * 3 / 4) == results(0));
}

TEST_CASE("gpu: losses of rows are the CPU's to rounding") {
  const TinyModelOptions options = GENERATE(TinyModelOptions(), TinyModelOptions{Family::Gpt2});
  const TinyModel model("gpu_losses", options);
  const Dataset dataset = dataset_of({ids_from(9, 9), ids_from(70, 70), ids_from(33, 33)});
  const auto cpu = row_losses(model.folder, kCpu, dataset, [](int64_t) {}),
             gpu = row_losses(model.folder, kGpu, dataset, [](int64_t) {});
  for (size_t r = 0; r < dataset.rows.size(); ++r)
    CHECK(relative_difference(gpu[r].losses, cpu[r].losses) < 1e-5);
}
