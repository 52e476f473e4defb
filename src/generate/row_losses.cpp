// Forward passes over packed rows and the head's loss of their trained tokens.
#include "generate/row_losses.h"

#include <algorithm>
#include <numeric>

#include "data/batcher.h"
#include "generate/pass_inputs.h"
#include "model/head_loss.h"

namespace lema {
namespace {

// Tokens a pass aims at; one longer row is a pass of its own.
constexpr int64_t kPackedTokens = 2048;

// The row numbers of each pass.
std::vector<std::vector<int64_t>> cut_into_passes(const Dataset& dataset) {
  std::vector<std::vector<int64_t>> passes;
  int64_t tokens = 0;
  for (int64_t r = 0; r < std::ssize(dataset.rows); ++r) {
    const auto length = std::ssize(dataset.rows[static_cast<size_t>(r)].ids);
    if (passes.empty() || tokens + length > kPackedTokens) {
      passes.emplace_back();
      tokens = 0;
    }
    passes.back().push_back(r);
    tokens += length;
  }
  return passes;
}

class Evaluation {
 public:
  Evaluation(const ModelFolder& folder, const OpenOptions& options, int64_t tokens,
             int64_t longest_row)
      : model_(folder, options, {tokens, longest_row}),
        head_(model_.device(), model_.ops(), model_.transformer(),
              {tokens, tokens, tokens, false, model_.head_rank(), model_.head_chunk_rows()}),
        inputs_(model_.device(), 9 * tokens),
        losses_(model_.device().allocate(tokens * 4, "losses")) {
    model_.place_weights();
  }

  // The losses of the batch's targets, in order.
  std::vector<float> run(const MicroBatch& m) {
    const auto N = std::ssize(m.ids);
    std::vector<int32_t> rows, targets;
    for (size_t i = 0; i < m.targets.size(); ++i) {
      if (m.targets[i] < 0) continue;
      rows.push_back(static_cast<int32_t>(i));
      targets.push_back(m.targets[i]);
    }
    const auto n = std::ssize(rows);
    inputs_.clear();
    TokenBatch batch;
    batch.tokens = N;
    model_.put_ids(batch, inputs_, m.ids);
    std::vector<int32_t> positions = m.positions;
    RopeTable& rope = model_.transformer().rope_table();
    rope.begin_pass();
    rope.map_sequences(positions, m.sequences);
    rope.send();
    batch.positions = inputs_.put(positions, {N});
    batch.sequences = inputs_.put(m.sequences, {std::ssize(m.sequences) / 4, 4});
    const TensorView target_rows = inputs_.put(rows, {n}), target_ids = inputs_.put(targets, {n});
    inputs_.send();

    const MatrixView x = model_.forward(batch, nullptr, {}, head_.visits(n, false));
    const LayerStream& stream = model_.stream();
    head_.run(
        {losses_.data(), DType::F32, {n}}, {}, x, target_rows, target_ids,
        stream.resident(Field::NormFinal), stream.resident(Field::NormFinalBias),
        [&](const HeadLoss::UseChunk& use) { model_.visit_head(use); }, 0);
    std::vector<float> out(static_cast<size_t>(n));
    model_.device().copy_async(Queue::Compute, out.data(), losses_.data(), n * 4);
    model_.device().synchronize(Queue::Compute);
    return out;
  }

 private:
  OpenedModel model_;
  HeadLoss head_;
  PassInputs inputs_;  // ids twice, positions, target rows, targets; 4 per sequence, which has a token
                       // at least
  Buffer losses_;
};

}  // namespace

std::vector<RowLoss> row_losses(const ModelFolder& folder, const OpenOptions& options,
                                const Dataset& dataset,
                                const std::function<void(int64_t)>& report) {
  const int64_t tokens =
      std::max(dataset.longest_row_tokens, std::min(kPackedTokens, dataset.tokens));
  Evaluation evaluation(folder, options, tokens, dataset.longest_row_tokens);
  std::vector<RowLoss> result;
  for (const std::vector<int64_t>& pass : cut_into_passes(dataset)) {
    const std::vector<float> losses =
        evaluation.run(make_micro_batches(dataset, pass, 0, true).at(0));
    auto at = losses.begin();
    for (int64_t r : pass) {
      const Row& row = dataset.rows[static_cast<size_t>(r)];
      const auto count = std::accumulate(row.trained.begin(), row.trained.end(), int64_t{0});
      result.push_back({row.line, {at, at + count}});
      at += count;
    }
    check(at == losses.end(), "{} losses are left over", losses.end() - at);
    report(std::ssize(result));
  }
  return result;
}

}  // namespace lema
