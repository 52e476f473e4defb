// ComputeStalls adds up what lies between each begin and end, once.
#include "stream/compute_stalls.h"

#include <chrono>
#include <thread>

#include "support/catch.h"

using namespace lema;

TEST_CASE("stalls are summed once, and a begin without its end begins again") {
  const auto device = make_cpu_device();
  ComputeStalls stalls(*device, 1);
  const auto wait = [] { std::this_thread::sleep_for(std::chrono::milliseconds(4)); };
  for (int i = 0; i < 3; ++i) {
    stalls.begin();
    wait();
    stalls.end();
    wait();
  }
  const double ms = stalls.take_ms();
  CHECK(ms >= 3 * 4);
  CHECK(stalls.take_ms() == 0);
  stalls.begin();  // of a pass that was cut short
  wait();
  CHECK(stalls.take_ms() == 0);
  stalls.begin();
  stalls.end();
  CHECK(stalls.take_ms() >= 0);
}
