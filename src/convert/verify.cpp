// A forward pass over all blocks and the head, with and without an adapter, and the comparison.
#include "convert/verify.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "core/error.h"
#include "model/transformer.h"
#include "stream/layer_stream.h"

namespace lema {
namespace {

constexpr int64_t kTokens = 32;

// Ids that lie all over the vocabulary, the same for every run.
std::vector<int32_t> fixed_tokens(const ModelConfig& config) {
  std::vector<int32_t> ids(static_cast<size_t>(std::min(kTokens, config.max_positions)));
  for (size_t i = 0; i < ids.size(); ++i)
    ids[i] = static_cast<int32_t>(static_cast<int64_t>(i + 1) * 7919 % config.V);
  return ids;
}

// One model's forward pass over one sequence, in f32.
class LogitsRun {
 public:
  // adapter may be null. References outlive the object.
  LogitsRun(const ModelFolder& folder, const Adapter* adapter, int64_t tokens)
      : config_(folder.config()),
        adapter_(adapter),
        tokens_(tokens),
        table_(make_piece_table(folder)),
        device_(make_cpu_device()),
        store_(folder, table_, *device_, {}),
        stream_(*device_, table_, store_,
                {false, std::vector<bool>(static_cast<size_t>(table_.unit_count())), 2}),
        ops_(make_cpu_ops(0, ops_limits())) {
    if (!adapter_) return;
    parameters_ = std::make_unique<AdapterParameters>(table_, *adapter_, "the adapter");
    parameters_->allocate(*device_, false);
    parameters_->load(*adapter_);
  }

  // (tokens, V)
  std::vector<float> logits(std::vector<int32_t> ids, const std::function<void()>& block_done) {
    std::vector<int32_t> positions(ids.size());
    std::iota(positions.begin(), positions.end(), 0);
    const auto n = static_cast<int32_t>(tokens_);
    std::vector<int32_t> sequence = {0, n, 0, n};
    Transformer transformer(*device_, *ops_, config_, table_.spec.linear_transposed, DType::F32,
                            {tokens_, tokens_, tokens_, tokens_, false,
                             parameters_ ? parameters_->embed_rank() : 0},
                            parameters_.get());
    transformer.rope_table().map(positions, tokens_);
    transformer.rope_table().send();
    TokenBatch batch;
    batch.ids = {ids.data(), DType::I32, {tokens_}};
    batch.positions = {positions.data(), DType::I32, {tokens_}};
    batch.sequences = {sequence.data(), DType::I32, {1, 4}};
    batch.tokens = tokens_;

    std::vector<float> x(static_cast<size_t>(tokens_ * config_.C)), x_next(x.size());
    const auto matrix = [&](std::vector<float>& data) {
      return MatrixView(data.data(), DType::F32, tokens_, config_.C);
    };
    const bool learned = config_.rope.kind == RopeConfig::Kind::None;
    transformer.embed(matrix(x), batch,
                      is_full(Field::Embed) ? parameters_->full(Field::Embed)
                                            : stream_.table(Field::Embed),
                      learned ? stream_.table(Field::Positions) : TensorView());
    const int64_t chunks = is_full(Field::Head) ? 0 : std::ssize(table_.head_chunks);
    stream_.begin_pass(forward_visits(config_.L, chunks));
    for (int64_t block = 0; block < config_.L; ++block) {
      const Lease w = stream_.acquire(block);
      if (parameters_) parameters_->update_norms(*ops_, w.weights(), block);
      transformer.block_forward(matrix(x_next), matrix(x), w.weights(), block, batch);
      std::swap(x, x_next);
      block_done();
    }
    transformer.norm(matrix(x), matrix(x), stream_.resident(Field::NormFinal),
                     stream_.resident(Field::NormFinalBias));
    return head(matrix(x));
  }

 private:
  OpsLimits ops_limits() const {
    OpsLimits limits;
    limits.rows = limits.tokens = tokens_;
    limits.width = std::max({config_.C, widest_linear(table_.spec), table_.head_chunk_rows});
    limits.rank = 0;
    if (adapter_)
      for (const auto& [path, module] : adapter_->modules)
        limits.rank = std::max(limits.rank, module.rank);
    limits.dora = adapter_ && adapter_->config.dora;
    limits.vocab_chunk = table_.head_chunk_rows;
    limits.heads = config_.H;
    limits.head_size = config_.D;
    return limits;
  }

  std::vector<float> head(MatrixView x) {
    std::vector<float> logits(static_cast<size_t>(tokens_ * config_.V));
    const auto use = [&](const TensorView& weight, int64_t begin) {
      const int64_t rows = weight.shape[0];
      const LoraView lora =
          parameters_ ? parameters_->head_rows(*ops_, weight, begin) : LoraView();
      const LinearPart part{weight, false, {}, lora.a ? &lora : nullptr};
      ops_->linear({logits.data() + begin, DType::F32, tokens_, rows, config_.V}, x, {&part, 1},
                   Write::Overwrite);
    };
    if (is_full(Field::Head))
      for_each_chunk(parameters_->full(Field::Head), table_.head_chunk_rows, use);
    for (int64_t chunk = 0; !is_full(Field::Head) && chunk < std::ssize(table_.head_chunks);
         ++chunk) {
      const Lease w = stream_.acquire(config_.L + chunk);
      use(w[Field::Head], chunk * table_.head_chunk_rows);
    }
    device_->synchronize(Queue::Compute);
    store_.check_files();
    return logits;
  }

  bool is_full(Field field) const { return parameters_ && parameters_->is_full(field); }

  const ModelConfig& config_;
  const Adapter* adapter_;
  int64_t tokens_;
  PieceTable table_;
  std::unique_ptr<Device> device_;  // first in, last out: buffers of the others are its
  std::unique_ptr<AdapterParameters> parameters_;
  HostStore store_;
  LayerStream stream_;
  std::unique_ptr<Ops> ops_;
};

// What rounding weights to a type may do to logits, relative RMS: 16 units u = 2^-11, 2^-8 of the
// last place. f32, where only the order of sums differs, gets 2^-16. Measured on tiny random
// models, whose errors are the largest: 1.2e-6, 2.7e-3, 1.9e-2.
double rounding_tolerance(DType dtype) {
  return dtype == DType::F32 ? 0x1p-16 : dtype == DType::F16 ? 0x1p-7 : 0x1p-4;
}

struct Difference {
  double max_abs = 0, relative_rms = 0;
};

// Infinite where either side is not finite.
Difference difference_of(const std::vector<float>& found, const std::vector<float>& expected) {
  check(expected.size() == found.size(), "{} and {} logits", expected.size(), found.size());
  double squared_difference = 0, squared = 0, max_abs = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double difference = std::abs(double{found[i]} - expected[i]);
    if (!std::isfinite(difference)) return {HUGE_VAL, HUGE_VAL};
    max_abs = std::max(max_abs, difference);
    squared_difference += difference * difference;
    squared += double{expected[i]} * expected[i];
  }
  return {max_abs,
          std::sqrt(squared_difference / std::max(squared, std::numeric_limits<double>::min()))};
}

}  // namespace

VerifyResult compare_logits(const ModelFolder& base, const Adapter& adapter,
                            const ModelFolder& merged, DType coarsest,
                            const ReportProgress& report) {
  const std::vector<int32_t> ids = fixed_tokens(base.config());
  const auto tokens = std::ssize(ids);
  int64_t done = 0;
  const auto logits = [&](const ModelFolder& folder, const Adapter* with) {
    return LogitsRun(folder, with, tokens).logits(ids, [&] {
      report({"comparing", ++done, 3 * base.config().L});
    });
  };
  const std::vector<float> expected = logits(base, &adapter);
  const Difference difference = difference_of(logits(merged, nullptr), expected);
  const double adapter_rms = difference_of(logits(base, nullptr), expected).relative_rms;
  const double tolerance = std::max(rounding_tolerance(DType::F32),
                                    std::min(rounding_tolerance(coarsest), adapter_rms / 2));
  return {tokens, difference.max_abs, difference.relative_rms, adapter_rms, tolerance};
}

}  // namespace lema
