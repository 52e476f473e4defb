// Numbers that are not finite among trained values and moments: seen before an update and before a
// save, on the device where they lie, without a wait of the host beside the one for the loss.
#include <cmath>

#include "support/catch.h"
#include "support/late_device.h"
#include "support/train_bench.h"

using namespace lema;
using namespace lema::test;

namespace {

Backend backend() { return {std::make_unique<LateDevice>(true), cpu_ops()}; }

void set(Trainer& trainer, const TensorView& x, int64_t index, float value) {
  trainer.device().copy_async(Queue::Compute, x.as<float>() + index, &value, 4);
  trainer.device().synchronize(Queue::Compute);
}

}  // namespace

TEST_CASE("a value or moment that is not finite ends the run before it is used") {
  const TrainBench bench({Family::Llama, 2, DType::F32, false}, 23);
  for (const float bad : {float{NAN}, float{INFINITY}, -float{INFINITY}})
    for (const int which : {0, 1, 2}) {
      const auto view = [which](Trainer& trainer) {
        return which == 0   ? trainer.adapter().values()
               : which == 1 ? trainer.moment1()
                            : trainer.moment2();
      };
      const char* what = which == 0 ? "trained values" : "moments of the optimizer";
      // In a step.
      const std::string message = message_of(ErrorCode::Numeric, [&] {
        bench.run(bench.config(), backend(), 2, [&](Trainer& trainer) {
          set(trainer, view(trainer), 0, bad);
        });
      });
      INFO(message);
      CHECK(message.find(fmt::format("step 1: among the {}", what)) != std::string::npos);
      // After some steps, as before a save; and a sound state passes.
      bench.run(bench.config(), backend(), 2, {}, [&](Trainer& trainer) {
        trainer.check_finite(1);
        const TensorView x = view(trainer);
        const float kept = floats(trainer.device(), x)[0];
        set(trainer, x, 0, bad);
        const std::string found =
            message_of(ErrorCode::Numeric, [&] { trainer.check_finite(1); });
        CHECK(found.find(what) != std::string::npos);
        set(trainer, x, 0, kept);
      });
    }
}

TEST_CASE("the host waits for the device once a step") {
  const TrainBench bench({Family::Llama, 4, DType::F32, false}, 23);
  const RunConfig config = bench.config(
      {"memory.residency=stream", "memory.slots=2", "memory.activations=offload"});
  const auto waits = [&](int64_t steps) {
    int64_t count = 0;
    bench.run(config, {std::make_unique<LateDevice>(), cpu_ops()}, steps, {},
              [&](Trainer& trainer) {
                count = dynamic_cast<LateDevice&>(trainer.device()).host_waits();
              });
    return count;
  };
  CHECK(waits(4) - waits(1) == 3);
}
