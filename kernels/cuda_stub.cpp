// Stands in for the CUDA backend where it is not built: asking for a GPU is a clear usage error.
#include "core/error.h"
#include "device.h"

namespace lema {

std::unique_ptr<Device> make_cuda_device(int ordinal) {
  fail(ErrorCode::Usage, "device cuda:{}: this lema was built without CUDA", ordinal);
}

int cuda_device_count() { return 0; }

}  // namespace lema
