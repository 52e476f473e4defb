// A tiny run on any device, and all that it leaves: the losses, the adapter, its gradients and
// moments, for tests of what must not change a bit. Used by the train tests on the CPU and the GPU.
#pragma once

#include <bit>
#include <cmath>
#include <cstring>
#include <functional>

#include "data/model_text.h"
#include "support/catch.h"
#include "support/message_of.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"
#include "train/plan_training.h"
#include "train/trainer.h"

namespace lema::test {

struct Outcome {
  std::vector<double> losses;
  std::vector<float> adapter, gradients, moments;
  std::vector<AdapterSlot> slots;
  int64_t h2d_bytes = 0, allocations_in_steps = 0, device_bytes = 0;
  int64_t disk_bytes = 0;  // in the steps and the evaluation
  bool operator==(const Outcome& o) const {
    const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
      return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * 4) == 0;
    };
    const auto bits = [](const std::vector<double>& values) {
      std::vector<uint64_t> all;
      for (const double value : values) all.push_back(std::bit_cast<uint64_t>(value));
      return all;  // a skipped step's gradient norm is not a number
    };
    return bits(losses) == bits(o.losses) && same(adapter, o.adapter) &&
           same(gradients, o.gradients) && same(moments, o.moments);
  }
};

inline std::vector<float> floats(Device& device, const TensorView& view) {
  std::vector<float> values(static_cast<size_t>(view.elements()));
  device.copy_async(Queue::Compute, values.data(), view.data, view.bytes());
  device.synchronize(Queue::Compute);
  return values;
}

using Settings = std::vector<std::string>;
inline Settings with(Settings settings, const Settings& more) {
  settings.insert(settings.end(), more.begin(), more.end());
  return settings;
}

// The budget in bytes that a refusal names.
inline int64_t named_least(const std::string& refusal) {
  INFO(refusal);
  const std::string before = "at least ";
  REQUIRE(contains(refusal, before));
  return std::stoll(refusal.substr(refusal.find(before) + before.size()));
}

// Of a fresh run without evaluation.
inline RunPlan plan_for(const RunConfig& config, const ModelFolder& folder, const Dataset& data,
                        const Backend& backend) {
  return plan_or_refuse(config, RunModel(folder, config, nullptr), *backend.device, backend.ops,
                        data_facts(data, nullptr));
}

class TrainBench {
 public:
  TrainBench(const TinyModelOptions& model, int64_t rows, int64_t longest = 30)
      : folder_("lema_exactness") {
    write_tiny_model(folder_.path() / "model", model);
    write_random_rows(folder_.path() / "rows.jsonl", rows, longest);
  }

  RunConfig config(const std::vector<std::string>& settings = {}) const {
    std::vector<std::string> all = {"model=" + (folder_.path() / "model").string(),
                                    "data.train=" + (folder_.path() / "rows.jsonl").string(),
                                    "output_dir=" + (folder_.path() / "run").string(),
                                    "data.format=tokens",
                                    "lora.rank=3",
                                    "lora.dropout=0.2",
                                    "train.batch_size=5",
                                    "train.max_steps=4",
                                    "train.token_tile=16",
                                    "optimizer.lr=0.01",
                                    "threads=2"};
    all.insert(all.end(), settings.begin(), settings.end());
    return make_run_config(all);
  }

  // `steps` updates and an evaluation; before_steps(trainer), and after(trainer) at the end.
  using Look = std::function<void(Trainer&)>;
  Outcome run(const RunConfig& config, Backend backend, int64_t steps,
              const Look& before_steps = {}, const Look& after = {}) const {
    const ModelFolder model(config.model);
    const Dataset data = load_dataset(config.data.train, config.data, load_model_text(model));
    RunConfig with_evaluation = config;  // of the batch after the steps
    with_evaluation.train.max_steps = steps + 1;
    RunPlan plan = plan_for(with_evaluation, model, data, backend);
    Trainer trainer(with_evaluation, model, std::move(backend), std::move(plan));
    trainer.initialise_adapter();
    if (before_steps) before_steps(trainer);
    Device& device = trainer.device();
    Batcher batcher(static_cast<int64_t>(data.rows.size()), config.train.batch_size,
                    static_cast<uint64_t>(config.seed), true);
    BatchCursor cursor;
    grow_b(trainer);
    Outcome out;
    const int64_t before = device.allocation_count(), read_before = trainer.disk_bytes();
    for (int64_t step = 0; step < steps; ++step) {
      const StepBatch batch = make_step_batch(
          data, batcher.next(cursor), trainer.plan().bounds.micro_rows, config.data.packing);
      const StepResult result = trainer.train_step(batch, config.optimizer.lr, step);
      check(std::isfinite(result.loss) && (result.update == StepResult::Update::Skipped ||
                                            std::isfinite(result.grad_norm)),
            "loss {}, gradient norm {}", result.loss, result.grad_norm);
      out.losses.push_back(result.loss);
      out.losses.push_back(result.grad_norm);
    }
    out.losses.push_back(trainer.evaluate(
        make_step_batch(data, batcher.next(cursor), trainer.plan().bounds.micro_rows, true)));
    if (after) after(trainer);
    out.allocations_in_steps = device.allocation_count() - before;
    out.disk_bytes = trainer.disk_bytes() - read_before;
    out.adapter = floats(device, trainer.adapter().values());
    if (steps > 0)  // which wrote them
      out.gradients = floats(device, trainer.adapter().gradients());
    out.slots = trainer.adapter().slots();
    out.moments = floats(device, trainer.moment1());
    const std::vector<float> second = floats(device, trainer.moment2());
    out.moments.insert(out.moments.end(), second.begin(), second.end());
    out.h2d_bytes = trainer.h2d_bytes();
    out.device_bytes = trainer.plan().placement.bytes(Tier::Device);
    return out;
  }

 private:
  // As after some training: while B is zero, so is the gradient of A.
  static void grow_b(Trainer& trainer) {
    const TensorView view = trainer.adapter().values();
    std::vector<float> values = floats(trainer.device(), view);
    for (const AdapterSlot& slot : trainer.adapter().slots())
      for (int64_t i = 0; i < slot.site.out * slot.rank; ++i)
        values[static_cast<size_t>(slot.b_offset + i)] = 0.1f * std::sin(static_cast<float>(i));
    trainer.device().copy_async(Queue::Compute, view.data, values.data(), view.bytes());
    trainer.device().synchronize(Queue::Compute);
  }

  TempFolder folder_;
};

}  // namespace lema::test
