// The GPU device keeps the plan as the CPU's does, and its page-locked memory takes direct reads.
#include <cstdint>
#include <vector>

#include "device.h"
#include "support/catch.h"
#include "support/message_of.h"

using namespace lema;

TEST_CASE("the GPU device refuses what goes beyond its limits, and counts what is given back") {
  const auto device = make_cuda_device(0);
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

TEST_CASE("page-locked memory begins at a page, the device's where kernels want it") {
  const auto device = make_cuda_device(0);
  std::vector<Buffer> buffers;
  for (const int64_t bytes : {0, 1, 100, 4096, 5000, 3'000'000}) {
    INFO(bytes);
    buffers.push_back(device->allocate_pinned(bytes, "pinned"));
    CHECK(reinterpret_cast<uintptr_t>(buffers.back().data()) % 4096 == 0);
    buffers.push_back(device->allocate(bytes, "device"));
    CHECK(reinterpret_cast<uintptr_t>(buffers.back().data()) % 256 == 0);
  }
}
