// log.trace: every copy and every visit of a block has its span, in its lane, in its order.
#include <map>

#include "core/file.h"
#include "formats/json.h"
#include "support/late_device.h"
#include "support/train_bench.h"

using namespace lema;
using namespace lema::test;

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

  const Value events = parse_json(read_text(path, 1 << 24), "trace.json");
  std::map<int64_t, std::string> lanes;
  std::map<std::string, std::map<std::string, int64_t>> counts;  // of names in each lane
  std::map<int64_t, double> last_end;
  for (const Value& event : events.as_array()) {
    const int64_t lane = event.find("tid")->as_int();
    const std::string name = event.find("name")->as_string();
    if (event.find("ph")->as_string() == "M") {
      lanes[lane] = event.find("args")->find("name")->as_string();
      continue;
    }
    ++counts[lanes[lane]][name];
    const double begin = event.find("ts")->as_number(), length = event.find("dur")->as_number();
    CHECK(begin >= 0);
    CHECK(length >= 0);
    CHECK(begin >= last_end[lane] - 0.2);  // times have one decimal
    last_end[lane] = begin + length;
  }
  for (int64_t b = 0; b < kBlocks; ++b) {
    CHECK(counts["compute"][fmt::format("backward {}", b)] == kSteps);
    CHECK(counts["compute"][fmt::format("forward {}", b)] >= kSteps);
  }
  CHECK(counts["compute"]["update"] == kSteps);
  CHECK(counts["H2D"]["unit 1"] >= kSteps);
  CHECK(counts["H2D"]["boundary 0"] == kSteps);
  CHECK(counts["D2H"]["boundary 0"] >= kSteps);
  CHECK(counts["D2H"][fmt::format("boundary {}", kBlocks)] == 0);  // never leaves the device
  CHECK(counts["disk"]["read"] >= 1);
}
