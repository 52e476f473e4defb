// A device keeps the plan: what was not planned is not allocated. Its memory is aligned for kernels,
// page-locked memory for direct reads.
#include <cstdint>
#include <vector>

#include "support/backend.h"
#include "support/catch.h"
#include "support/message_of.h"

using namespace lema;
using namespace lema::test;

TEST_CASE("device: what goes beyond its limits is refused, what is given back is counted") {
  const auto device = make_test_device();
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

TEST_CASE("device: page-locked memory begins at a page, the device's where kernels want it") {
  const auto device = make_test_device();
  std::vector<Buffer> buffers;
  for (const int64_t bytes : {1, 100, 4096, 5000, 3'000'000}) {
    INFO(bytes);
    buffers.push_back(device->allocate_pinned(bytes, "pinned"));
    CHECK(reinterpret_cast<uintptr_t>(buffers.back().data()) % 4096 == 0);
    buffers.push_back(device->allocate(bytes, "device"));
    CHECK(reinterpret_cast<uintptr_t>(buffers.back().data()) % 256 == 0);
  }
}
