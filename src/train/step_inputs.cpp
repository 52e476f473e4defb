// Packing of a step's integers into one upload.
#include "train/step_inputs.h"

namespace lema {

int64_t StepInputs::bytes(int64_t tokens, int64_t rows) { return (5 * tokens + 4 * rows) * 4; }

StepInputs::StepInputs(Device& device, int64_t tokens, int64_t rows)
    : device_(device),
      max_tokens_(tokens),
      max_rows_(rows),
      device_buffer_(device.allocate(bytes(tokens, rows), "step inputs")),
      host_buffer_(device.allocate_pinned(bytes(tokens, rows), "step inputs (host)")) {}

void StepInputs::upload(const StepBatch& batch, RopeTable& rope, EmbeddingRows* embedding) {
  auto* host = reinterpret_cast<int32_t*>(host_buffer_.data());
  auto* base = reinterpret_cast<int32_t*>(device_buffer_.data());
  int64_t used = 0;
  const auto put = [&](const std::vector<int32_t>& values, Shape shape) {
    check(used + static_cast<int64_t>(values.size()) <= device_buffer_.bytes() / 4,
          "a step of more than {} tokens or {} rows", max_tokens_, max_rows_);
    std::copy(values.begin(), values.end(), host + used);
    const TensorView view(base + used, DType::I32, shape);
    used += static_cast<int64_t>(values.size());
    return view;
  };
  int64_t tokens = 0, rows_of_step = 0;
  for (const MicroBatch& m : batch.micro) {
    tokens += std::ssize(m.ids);
    rows_of_step += std::ssize(m.sequences) / 4;
  }
  check(tokens <= max_tokens_ && rows_of_step <= max_rows_,
        "a step of {} tokens and {} rows in buffers for {} and {}", tokens, rows_of_step,
        max_tokens_, max_rows_);
  micro_.clear();
  rope.begin_pass();
  if (embedding) embedding->begin_pass();
  std::vector<int32_t> rows, targets;
  tokens_ = 0;
  for (const MicroBatch& m : batch.micro) {
    const auto n = static_cast<int64_t>(m.ids.size());
    TokenBatch t;
    t.ids = put(m.ids, {n});
    if (embedding) {
      int32_t* rows_of_ids = host + used;
      t.table_rows = put(m.ids, {n});
      embedding->map({rows_of_ids, m.ids.size()});
    }
    int32_t* positions = host + used;
    t.positions = put(m.positions, {n});
    rope.map_sequences({positions, m.positions.size()}, m.sequences);
    t.sequences = put(m.sequences, {static_cast<int64_t>(m.sequences.size() / 4), 4});
    t.tokens = n;
    t.first_row = tokens_;
    for (size_t i = 0; i < m.targets.size(); ++i) {
      if (m.targets[i] < 0) continue;
      rows.push_back(static_cast<int32_t>(tokens_ + static_cast<int64_t>(i)));
      targets.push_back(m.targets[i]);
    }
    tokens_ += n;
    micro_.push_back(t);
  }
  target_rows_ = put(rows, {static_cast<int64_t>(rows.size())});
  targets_ = put(targets, {static_cast<int64_t>(targets.size())});
  device_.copy_async(Queue::Compute, base, host, used * 4);
  rope.send();
  if (embedding) embedding->read();
}

}  // namespace lema
