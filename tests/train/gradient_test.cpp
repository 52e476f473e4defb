// The gradient of a whole model against differences of its loss, value by value: of every kind of
// trained tensor, through blocks, head and adapters. And its control arms: a gradient with a
// planted error must turn it red.
#include <algorithm>
#include <cmath>
#include <map>

#include "support/catch.h"
#include "support/late_device.h"
#include "support/train_bench.h"

using namespace lema;
using namespace lema::test;

namespace {

// Of a tensor: the largest gradients and others spread over it.
constexpr int64_t kProbes = 16;
#ifdef __SANITIZE_THREAD__
constexpr int64_t kSlopeProbes = 4;  // threads do the same for each
#else
constexpr int64_t kSlopeProbes = kProbes;
#endif

struct Tensor {
  int64_t begin, count;
};

class GradientCheck {
 public:
  GradientCheck(const TinyModelOptions& model, const std::vector<std::string>& settings,
                int64_t probes = kProbes)
      : probes_(probes),
        bench_(model, 7),
        config_(bench_.config(with_base(settings))),
        folder_(config_.model) {
    data_ = load_dataset(config_.data.train, config_.data, load_model_text(folder_));
    Backend backend{make_cpu_device(), cpu_ops()};
    RunPlan plan = plan_for(config_, folder_, data_, backend);
    trainer_.emplace(config_, folder_, std::move(backend), std::move(plan));
    trainer_->initialise_adapter();
    const std::vector<int64_t> rows = {0, 1, 2, 3, 4};
    batch_ = make_step_batch(data_, rows, trainer_->plan().bounds.micro_rows, true);
    values_ = floats(trainer_->device(), trainer_->adapter().values());
    for (const Tensor& tensor : tensors())  // no gradient of A is zero because B is
      for (int64_t i = 0; i < tensor.count; ++i)
        values_[static_cast<size_t>(tensor.begin + i)] +=
            0.05f * std::sin(static_cast<float>(3 * i + tensor.begin));
    set(values_);
    trainer_->adapter().values_changed();
    trainer_->probe(batch_, 0);
    gradient = floats(trainer_->device(), trainer_->adapter().gradients());
  }

  std::vector<Tensor> tensors() {
    std::vector<Tensor> all;
    for (const AdapterSlot& slot : trainer_->adapter().slots()) {
      all.push_back({slot.a_offset, slot.rank * slot.site.in});
      all.push_back({slot.b_offset, slot.rank * slot.site.out});
      if (slot.magnitude_offset >= 0) all.push_back({slot.magnitude_offset, slot.site.out});
    }
    return all;
  }

  // The largest error of any probe of `gradient`, in units of the largest gradient of its tensor.
  double error() {
    double worst = 0;
    for (const Tensor& tensor : tensors()) {
      double largest = 0;
      for (int64_t i = 0; i < tensor.count; ++i)
        largest = std::max(largest, std::abs(static_cast<double>(at(tensor.begin + i))));
      CHECK(largest > 0);
      for (const int64_t i : probes(tensor))
        worst = std::max(worst, std::abs(difference(i) - static_cast<double>(at(i))) / largest);
    }
    return worst;
  }

  std::vector<float> gradient;

 private:
  static std::vector<std::string> with_base(std::vector<std::string> settings) {
    for (const char* base : {"compute=f32", "lora.dropout=0"}) settings.emplace_back(base);
    return settings;
  }
  float at(int64_t i) const { return gradient[static_cast<size_t>(i)]; }

  std::vector<int64_t> probes(const Tensor& tensor) const {
    std::vector<int64_t> order(static_cast<size_t>(tensor.count));
    for (size_t i = 0; i < order.size(); ++i) order[i] = tensor.begin + static_cast<int64_t>(i);
    std::vector<int64_t> chosen;
    for (int64_t p = 0; p < probes_ / 2; ++p)
      chosen.push_back(order[static_cast<size_t>(p * tensor.count / (probes_ / 2))]);
    std::sort(order.begin(), order.end(),
              [&](int64_t a, int64_t b) { return std::abs(at(a)) > std::abs(at(b)); });
    order.resize(std::min(order.size(), static_cast<size_t>(probes_ / 2)));
    chosen.insert(chosen.end(), order.begin(), order.end());
    return chosen;
  }

  // Four points: what is left of the step's size is of its fourth power.
  double difference(int64_t i) {
    if (const auto known = differences_.find(i); known != differences_.end()) return known->second;
    constexpr double kStep = 0.004;
    const auto loss = [&](double by) {
      std::vector<float> moved = values_;
      moved[static_cast<size_t>(i)] += static_cast<float>(by);
      set(moved);
      return trainer_->evaluate(batch_) / static_cast<double>(batch_.trained_tokens);
    };
    const double slope = (8 * (loss(kStep) - loss(-kStep)) - (loss(2 * kStep) - loss(-2 * kStep))) /
                         (12 * kStep);
    return differences_[i] = slope;
  }

  // DoRA's norms stay: its gradient takes them for constants, as PEFT's does.
  void set(const std::vector<float>& values) {
    const TensorView view = trainer_->adapter().values();
    trainer_->device().copy_async(Queue::Compute, view.data, values.data(), view.bytes());
    trainer_->device().synchronize(Queue::Compute);
  }

  int64_t probes_;
  TrainBench bench_;
  RunConfig config_;
  ModelFolder folder_;
  Dataset data_;
  std::optional<Trainer> trainer_;
  StepBatch batch_;
  std::vector<float> values_;
  std::map<int64_t, double> differences_;
};

// Of the largest gradient: f32 losses have a noise of 1e-7, the smallest tensors slopes of 0.01.
constexpr double kTolerance = 5e-3;

}  // namespace

TEST_CASE("the gradient of every trained tensor is the slope of the loss") {
  for (const Family family : {Family::Llama, Family::Gpt2})
    for (const std::vector<std::string>& settings :
         {std::vector<std::string>{},
          {"lora.dora=true"},
          {"lora.rslora=true", "train.micro_batch_size=2"}}) {
      INFO((family == Family::Llama ? "llama " : "gpt2 ")
           << fmt::format("{}", fmt::join(settings, " ")));
      GradientCheck check({family, 2, DType::F32, false}, settings, kSlopeProbes);
      CHECK(check.error() < kTolerance);
    }
}

TEST_CASE("a gradient with a planted error turns the check red") {
  GradientCheck check({Family::Llama, 2, DType::F32, false}, {});
  REQUIRE(check.error() < kTolerance);
  const std::vector<float> sound = check.gradient;
  for (const Tensor& tensor : check.tensors()) {
    const auto plant = [&](auto error) {
      check.gradient = sound;
      for (int64_t i = 0; i < tensor.count; ++i) {
        float& g = check.gradient[static_cast<size_t>(tensor.begin + i)];
        g = error(i, g);
      }
      return check.error() > kTolerance;
    };
    CHECK(plant([](int64_t, float g) { return -g; }));                            // a sign
    CHECK(plant([](int64_t, float g) { return 1.01f * g; }));                     // a factor
    CHECK(plant([&](int64_t i, float g) { return i < tensor.count / 4 ? 0 : g; }));  // a group
    CHECK(plant([&](int64_t i, float) {                                           // a shift by one
      return sound[static_cast<size_t>(tensor.begin + (i + 1) % tensor.count)];
    }));
  }
}
