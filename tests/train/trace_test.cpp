// log.trace: every copy and every visit of a block has its span, in its lane, in its order, under
// its step or evaluation.
#include <map>
#include <utility>

#include "core/file.h"
#include "formats/json.h"
#include "support/late_device.h"
#include "support/train_bench.h"

using namespace lema;
using namespace lema::test;

namespace {

// Spans by lane, name, and "step 2" or "evaluation 3".
using Counts = std::map<std::string, std::map<std::string, std::map<std::string, int64_t>>>;

Counts read_trace(const fs::path& path) {
  const Value events = parse_json(read_text(path, 1 << 24), "trace.json");
  std::map<int64_t, std::string> lanes;
  std::map<int64_t, double> last_end;
  Counts counts;
  for (const Value& event : events.as_array()) {
    const int64_t lane = event.find("tid")->as_int();
    const std::string name = event.find("name")->as_string();
    const Value& args = *event.find("args");
    if (event.find("ph")->as_string() == "M") {
      lanes[lane] = args.find("name")->as_string();
      continue;
    }
    const Value* step = args.find("step");
    ++counts[lanes[lane]][name][step ? fmt::format("step {}", step->as_int())
                                     : fmt::format("evaluation {}",
                                                   args.find("evaluation")->as_int())];
    const double begin = event.find("ts")->as_number(), length = event.find("dur")->as_number();
    CHECK(begin >= 0);
    CHECK(length >= 0);
    CHECK(begin >= last_end[lane] - 0.2);  // times have one decimal
    last_end[lane] = begin + length;
  }
  return counts;
}

int64_t total(const std::map<std::string, int64_t>& counts) {
  int64_t sum = 0;
  for (const auto& [pass, count] : counts) sum += count;
  return sum;
}

}  // namespace

TEST_CASE("trace: lanes of disk, both copy queues and compute") {
  constexpr int64_t kBlocks = 6, kSteps = 3;
  const TrainBench bench({Family::Llama, kBlocks, DType::F32, false}, 11);
  const TempFolder folder("lema_trace");
  const fs::path path = folder.path() / "trace.json";
  const auto run = [&](std::vector<std::string> settings) {
    settings.insert(settings.end(), {"compute=f32", "memory.residency=stream", "memory.slots=2",
                                     "memory.disk=buffered", "memory.activations=offload"});
    return bench.run(bench.config(settings), {std::make_unique<LateDevice>(), cpu_ops()}, kSteps);
  };
  CHECK(run({"log.trace=" + path.string()}) == run({}));

  Counts counts = read_trace(path);
  const std::map<std::string, int64_t> in_steps = {{"step 1", 1}, {"step 2", 1}, {"step 3", 1}};
  std::map<std::string, int64_t> in_all = in_steps;
  in_all["evaluation 3"] = 1;
  for (int64_t b = 0; b < kBlocks; ++b) {
    CHECK(counts["compute"][fmt::format("backward {}", b)] == in_steps);
    CHECK(counts["compute"][fmt::format("forward {}", b)] == in_all);
  }
  CHECK(counts["compute"]["update"] == in_steps);
  CHECK(total(counts["H2D"]["unit 1"]) >= kSteps);
  CHECK(counts["H2D"]["boundary 0"] == in_steps);
  CHECK(total(counts["D2H"]["boundary 0"]) >= kSteps);
  CHECK(counts["D2H"][fmt::format("boundary {}", kBlocks)].empty());  // never leaves the device
  CHECK(counts["disk"]["read"]["step 0"] == 1);
  CHECK(counts["disk"][fmt::format("unit {}", kBlocks - 1)]["step 1"] == 1);
}

TEST_CASE("trace: no boundary waits behind the weights of a block below its own") {
  constexpr int64_t kBlocks = 8;
  const TrainBench bench({Family::Llama, kBlocks, DType::F32, false}, 11);
  const TempFolder folder("lema_trace");
  const fs::path path = folder.path() / "trace.json";
  const std::string slots = GENERATE("memory.slots=2", "memory.slots=3");
  bench.run(bench.config({"compute=f32", "memory.residency=stream", "memory.activations=offload",
                          slots, "log.trace=" + path.string()}),
            {std::make_unique<LateDevice>(), cpu_ops()}, 1);
  std::vector<std::pair<std::string, int64_t>> copies;  // "unit" or "boundary", and its number
  const Value events = parse_json(read_text(path, 1 << 24), "trace.json");
  for (const Value& event : events.as_array()) {
    if (event.find("ph")->as_string() == "M" || event.find("tid")->as_int() != 1) continue;
    if (!event.find("args")->find("step") || event.find("args")->find("step")->as_int() != 1)
      continue;
    const std::string name = event.find("name")->as_string();
    copies.emplace_back(name.substr(0, name.find(' ')), std::stoll(name.substr(name.find(' '))));
  }
  int64_t boundaries = 0;
  for (size_t i = 0; i < copies.size(); ++i) {
    if (copies[i].first != "boundary") continue;
    ++boundaries;
    int64_t lowest = kBlocks;  // of the units since the head, which are the backward pass's
    for (size_t j = i; j-- > 0 && copies[j].second < kBlocks;)
      if (copies[j].first == "unit") lowest = std::min(lowest, copies[j].second);
    INFO(slots << ", boundary " << copies[i].second);
    CHECK(lowest >= copies[i].second);
  }
  CHECK(boundaries == kBlocks - 2);
}

TEST_CASE("trace: evaluations without a step keep few timers, and the last one is written") {
  const TempFolder folder("lema_trace");
  const fs::path path = folder.path() / "trace.json";
  LateDevice device;
  {
    Trace trace(device, path);
    const Event before = device.create_event();
    for (int64_t batch = 0; batch < 10; ++batch) {
      trace.begin_evaluation();
      for (const char* name : {"forward 0", "forward 1"})
        const Trace::Span span(&trace, Queue::Compute, name);
    }
    CHECK(device.create_event().id == before.id + 2 * 2 + 1);  // two timers a span
  }
  Counts counts = read_trace(path);
  for (const char* name : {"forward 0", "forward 1"})
    CHECK(counts["compute"][name]["evaluation 0"] == 10);
}
