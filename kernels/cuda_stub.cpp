// Stands in for the CUDA backend where it is not built: asking for a GPU is a clear usage error.
#include "core/error.h"
#include "device.h"
#include "ops.h"

namespace lema {

std::unique_ptr<Device> make_cuda_device(int ordinal) {
  fail(ErrorCode::Usage, "device cuda:{}: this lema was built without CUDA", ordinal);
}

std::unique_ptr<Ops> make_cuda_ops(Device&, const OpsLimits&) {
  fail(ErrorCode::Usage, "this lema was built without CUDA");
}

int64_t cuda_scratch_bytes(const OpsLimits&) {
  fail(ErrorCode::Usage, "this lema was built without CUDA");
}

int cuda_device_count() { return 0; }

bool cuda_is_built() { return false; }

}  // namespace lema
