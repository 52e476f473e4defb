// The CPU device keeps the plan: what was not planned is not allocated.
#include "device.h"

#include "support/catch.h"
#include "support/message_of.h"

using namespace lema;

TEST_CASE("the CPU device refuses what goes beyond its limits, and counts what is given back") {
  const auto device = make_cpu_device();
  device->set_limits(10'000, 500);
  const Buffer arena = device->allocate(6'000, "arena");
  {
    const Buffer ring = device->allocate(4'000, "ring");
    CHECK(contains(message_of(ErrorCode::DoesNotFit, [&] { device->allocate(1, "one more"); }),
                   "one more: 1 B beside 9.8 KiB"));
  }
  device->allocate(4'000, "ring");
  CHECK(contains(message_of(ErrorCode::DoesNotFit, [&] { device->allocate_pinned(501, "table"); }),
                 "table: 501 B"));
  device->allocate_pinned(500, "table");
}
