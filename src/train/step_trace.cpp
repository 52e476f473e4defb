// A device and a reader without work, kernels that note their calls, and one step over them.
#include "train/step_trace.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "train/recording_ops.h"
#include "train/trainer.h"

namespace lema {
namespace {

// Collects what device and kernels are told.
class Recorder {
 public:
  void kernel(KernelCall call) {
    const auto [found, is_new] =
        index_.try_emplace(call.key(), static_cast<int64_t>(trace.calls.size()));
    if (is_new) trace.calls.push_back(std::move(call));
    trace.items.push_back({{TraceItem::Kind::Work, Lane::Compute}, found->second, 0});
  }
  void copy(Lane lane, int64_t bytes) {
    trace.items.push_back({{TraceItem::Kind::Work, lane}, -1, bytes});
  }
  Event create_event() { return {events_++}; }
  void record(Event event, Lane lane) { note(TraceItem::Kind::Record, event, lane); }
  void wait(Lane lane, Event event) { note(TraceItem::Kind::Wait, event, lane); }
  void clear() {
    trace = {};
    index_.clear();
  }
  StepTrace trace;

 private:
  void note(TraceItem::Kind kind, Event event, Lane lane) {
    trace.items.push_back({{kind, lane, 0, event.id}, -1, 0});
  }
  std::map<std::string, int64_t> index_;
  int32_t events_ = 0;
};

Lane lane_of(Queue queue) {
  switch (queue) {
    case Queue::Compute:
      return Lane::Compute;
    case Queue::H2D:
      return Lane::H2D;
    case Queue::D2H:
      return Lane::D2H;
  }
  return Lane::Compute;
}

// Answers as the run's device does whatever a trainer asks. Its memory is addresses that nobody
// reads or writes; what the host reads back from there are ones. Page-locked memory, which the host
// writes to, is there, and takes none as long as nothing is written: weights and what is offloaded
// never are.
class HollowDevice final : public Device {
 public:
  HollowDevice(const Device& like, Recorder& recorder)
      : like_(like), memory_(make_cpu_device()), recorder_(recorder) {}
  std::string name() const override { return like_.name(); }
  std::string arithmetic() const override { return like_.arithmetic(); }
  bool reads_host_memory() const override { return like_.reads_host_memory(); }
  DType preferred_activation(DType stored) const override {
    return like_.preferred_activation(stored);
  }
  Buffer allocate(int64_t bytes, std::string_view) override {
    constexpr int64_t kPage = 4096;
    void* data = reinterpret_cast<void*>(next_);
    next_ += static_cast<uintptr_t>((bytes + kPage) / kPage * kPage);
    return {this, data, bytes, false};
  }
  Buffer allocate_pinned(int64_t bytes, std::string_view label) override {
    return memory_->allocate_pinned(bytes, label);
  }
  void copy_async(Queue queue, void* to, const void* from, int64_t bytes) override {
    recorder_.copy(lane_of(queue), bytes);
    if (queue == Queue::Compute && is_hollow(from) && !is_hollow(to))
      std::fill_n(static_cast<float*>(to), bytes / int64_t{sizeof(float)}, 1.0f);
  }
  Event create_event() override { return recorder_.create_event(); }
  Event create_timer() override { return create_event(); }
  double elapsed_ms(Event, Event) override { return 0; }
  void record(Event event, Queue queue) override {
    recorder_.record(event, lane_of(queue));
  }
  void wait(Queue queue, Event event) override {
    recorder_.wait(lane_of(queue), event);
  }
  void synchronize(Event event) override { recorder_.wait(Lane::Host, event); }
  void synchronize(Queue queue) override {
    const Event all = create_event();
    record(all, queue);
    synchronize(all);
  }
  Recorder& recorder() { return recorder_; }

 private:
  void deallocate(void*, int64_t, bool) noexcept override {}
  bool is_hollow(const void* data) const {
    const auto at = reinterpret_cast<uintptr_t>(data);
    return kFirst <= at && at < next_;
  }
  static constexpr uintptr_t kFirst = uintptr_t{1} << 40;  // below what Linux gives to processes
  const Device& like_;
  std::unique_ptr<Device> memory_;
  Recorder& recorder_;
  uintptr_t next_ = kFirst;
};

// Reads nothing.
class HollowReader final : public WeightReader {
 public:
  HollowReader(Recorder& recorder, Lane lane) : recorder_(recorder), lane_(lane) {}

 private:
  void submit(const HostImage& image, std::byte*, DiskJob& job) override {
    recorder_.copy(lane_, image.bytes());
    const Event done = recorder_.create_event();
    recorder_.record(done, lane_);
    done_[&job] = done;
  }
  void complete(DiskJob& job) override {
    if (const auto found = done_.find(&job); found != done_.end())
      recorder_.wait(Lane::Host, found->second);
  }

  Recorder& recorder_;
  Lane lane_;
  std::map<const DiskJob*, Event> done_;
};

// The mean step: its tokens and trained tokens in rows of one length, at most as many as a step has
// and, as far as that goes, so long that the sum of their squares is the mean one.
StepBatch mean_step(const StepBounds& bounds) {
  const auto at_least_one = [](double mean) { return std::max<int64_t>(1, std::llround(mean)); };
  const StepBounds::Mean& mean = bounds.mean;
  StepBatch step;
  step.tokens = at_least_one(mean.tokens);
  step.trained_tokens = std::min(step.tokens, at_least_one(mean.trained));
  const int64_t length = at_least_one(mean.squares / mean.tokens), rows = at_least_one(mean.rows);
  const auto up = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  const int64_t sequences = std::min(rows, up(step.tokens, length));
  int64_t micro_count = std::min(sequences, up(rows, bounds.micro_rows));
  // Fewer and longer rows than a step has: the largest of its micro-batches is no larger for that.
  while (micro_count < sequences &&
         up(sequences, micro_count) * up(step.tokens, sequences) > bounds.micro_tokens)
    ++micro_count;
  int64_t left = step.trained_tokens;
  for (int64_t i = 0; i < micro_count; ++i) {
    MicroBatch micro;
    for (int64_t s = sequences * i / micro_count; s < sequences * (i + 1) / micro_count; ++s) {
      const auto begin = static_cast<int32_t>(micro.ids.size()),
                 size = static_cast<int32_t>(step.tokens * (s + 1) / sequences -
                                             step.tokens * s / sequences);
      for (int32_t t = 0; t < size; ++t) micro.positions.push_back(t);
      micro.ids.resize(micro.positions.size(), 0);
      micro.sequences.insert(micro.sequences.end(), {begin, size, begin, size});
    }
    micro.trained_tokens = std::min<int64_t>(left, std::ssize(micro.ids));
    left -= micro.trained_tokens;
    micro.targets.assign(micro.ids.size(), -1);
    std::fill_n(micro.targets.begin(), micro.trained_tokens, 0);
    step.micro.push_back(std::move(micro));
  }
  return step;
}

}  // namespace

bool StepTrace::reads_from_disk() const {
  return std::any_of(items.begin(), items.end(),
                     [](const StepItem& item) { return item.is_read(); });
}

StepTrace trace_step(const RunConfig& config, const ModelFolder& folder, const RunPlan& plan,
                     const Device& like, const OpsFactory& ops, const Adapter* start,
                     bool evaluates) {
  Recorder recorder;
  const Lane reads = plan.reads_page_cache && plan.shares_memory ? Lane::Host : Lane::Disk;
  RunConfig quiet = config;
  quiet.log.trace.clear();
  const auto make = [](Device& device, int, const OpsLimits&) -> std::unique_ptr<Ops> {
    Recorder& to = dynamic_cast<HollowDevice&>(device).recorder();
    return make_recording_ops([&to](KernelCall call) { to.kernel(std::move(call)); });
  };
  const auto read_nothing = [&](const DiskFiles&) {
    return std::make_unique<HollowReader>(recorder, reads);
  };
  Trainer trainer(quiet, folder,
                  {std::make_unique<HollowDevice>(like, recorder), {make, ops.scratch_bytes}}, plan,
                  start, read_nothing);
  const StepBatch batch = mean_step(plan.bounds);
  trainer.train_step(batch, config.optimizer.lr, 0);
  recorder.clear();  // the first step also brings what later ones find in the ring
  trainer.train_step(batch, config.optimizer.lr, 1);
  StepTrace trace = recorder.trace;
  if (evaluates) trainer.evaluate(batch);
  trace.run_calls = std::move(recorder.trace.calls);
  return trace;
}

}  // namespace lema
