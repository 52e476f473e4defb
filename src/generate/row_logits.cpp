// A forward pass per row and the whole head on all of its positions.
#include "generate/row_logits.h"

#include <numeric>
#include <vector>

#include "formats/safetensors.h"
#include "generate/pass_inputs.h"

namespace lema {

void write_row_logits(const ModelFolder& folder, const OpenOptions& options, const Dataset& dataset,
                      const fs::path& path, const std::function<void(int64_t)>& report) {
  const int64_t longest = dataset.longest_row_tokens, V = folder.config().V;
  OpenedModel model(folder, options, {longest, longest});
  PassInputs inputs(model.device(), 3 * longest + 4);
  const Buffer buffer = model.device().allocate(longest * V * 4, "logits");
  model.place_weights();
  std::vector<float> host(static_cast<size_t>(longest * V));
  RopeTable& rope = model.transformer().rope_table();
  std::vector<int32_t> positions;

  std::vector<TensorSpec> tensors;
  for (const Row& row : dataset.rows)
    tensors.push_back({fmt::format("line_{}", row.line), DType::F32, {std::ssize(row.ids), V}});
  StagedFile staged(path);
  SafetensorsWriter writer(staged.path(), tensors, {{"format", "pt"}});
  int64_t done = 0;
  for (const Row& row : dataset.rows) {
    const int64_t T = std::ssize(row.ids);
    const std::vector<int32_t> sequence = {0, static_cast<int32_t>(T), 0, static_cast<int32_t>(T)};
    positions.resize(row.ids.size());
    std::iota(positions.begin(), positions.end(), 0);
    rope.begin_pass();
    rope.map(positions, T);
    rope.send();
    inputs.clear();
    TokenBatch batch;
    batch.tokens = T;
    model.put_ids(batch, inputs, row.ids);
    batch.positions = inputs.put(positions, {T});
    batch.sequences = inputs.put(sequence, {1, 4});
    inputs.send();
    const MatrixView x = model.forward(batch, nullptr, {}, 1);
    model.final_norm(x, x);
    const MatrixView logits(buffer.data(), DType::F32, T, V);
    model.logits(logits, x);
    model.device().copy_async(Queue::Compute, host.data(), buffer.data(), T * V * 4);
    model.device().synchronize(Queue::Compute);
    writer.write(host.data(), T * V * 4);
    report(++done);
  }
  writer.finish();
  staged.commit();
}

}  // namespace lema
