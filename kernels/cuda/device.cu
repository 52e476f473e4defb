// Streams, events and memory of one GPU: a stream per queue, plain device and page-locked host
// allocations. The static CUDA runtime starts without a driver, so one binary serves machines with
// and without a GPU.
#include <algorithm>
#include <cstring>

#include "core/units.h"
#include "cuda/check.h"
#include "cuda/cublaslt.h"
#include "cuda/cuda_device.h"

namespace lema {
namespace cuda {
namespace {

constexpr int64_t kPage = 4096;
constexpr const char* kQueueNames[] = {"compute", "host-to-device", "device-to-host"};

const char* name_of(Queue queue) { return kQueueNames[static_cast<size_t>(queue)]; }

__global__ void any_kernel() {}

// Usage where a GPU cannot be used.
void check_usable(cudaError_t status, int ordinal) {
  if (status == cudaSuccess) return;
  cudaGetLastError();
  fail(ErrorCode::Usage, "device cuda:{}: {} ({})", ordinal, cudaGetErrorString(status),
       cudaGetErrorName(status));
}

}  // namespace

void fail_cuda(cudaError_t status, const std::string& doing) {
  cudaGetLastError();  // clears it
  if (status == cudaErrorMemoryAllocation) fail(ErrorCode::DoesNotFit, "{}: out of memory", doing);
  fail(ErrorCode::Internal, "{}: {} ({}); work submitted before it may be the cause", doing,
       cudaGetErrorString(status), cudaGetErrorName(status));
}

CudaDevice::CudaDevice(int ordinal) : ordinal_(ordinal) {
  check_usable(cudaSetDevice(ordinal), ordinal);  // makes a context, for which there may be no room
  cudaDeviceProp properties;
  check_usable(cudaGetDeviceProperties(&properties, ordinal), ordinal);
  name_ = properties.name;
  architecture_ = 10 * properties.major + properties.minor;
  cudaFuncAttributes attributes{};
  const cudaError_t loaded = cudaFuncGetAttributes(&attributes, any_kernel);
  if (loaded == cudaErrorNoKernelImageForDevice) {
    cudaGetLastError();
    fail(ErrorCode::Usage,
         "device cuda:{}: {} has compute capability {}.{}, and this lema was built for {}", ordinal,
         name_, properties.major, properties.minor, LEMA_CUDA_ARCHITECTURES);
  }
  check_usable(loaded, ordinal);
  kernel_architecture_ = attributes.ptxVersion;
  check(kernel_architecture_ >= 75, "kernels of sm_{}", kernel_architecture_);
  for (cudaStream_t& stream : streams_)
    check_usable(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), ordinal);
}

CudaDevice::~CudaDevice() {
  for (cudaEvent_t event : events_) cudaEventDestroy(event);
  for (cudaStream_t stream : streams_) cudaStreamDestroy(stream);
}

int64_t CudaDevice::free_bytes() const {
  // For kernels that are loaded later, as those of chat and eval are, and for other processes.
  constexpr int64_t kForOthers = int64_t{256} << 20;
  size_t free_bytes = 0, total_bytes = 0;
  cuda_check(cudaMemGetInfo(&free_bytes, &total_bytes), "asking for the free memory of {}", name_);
  return std::max<int64_t>(1, static_cast<int64_t>(free_bytes) - kForOthers);
}

int64_t CudaDevice::used_bytes() const {
  size_t free_bytes = 0, total_bytes = 0;
  cuda_check(cudaMemGetInfo(&free_bytes, &total_bytes), "asking for the used memory of {}", name_);
  return static_cast<int64_t>(total_bytes - free_bytes);
}

DType CudaDevice::preferred_activation(DType) const {
  return architecture_ >= 80 ? DType::BF16 : DType::F16;
}

std::string CudaDevice::arithmetic() const {
  const std::string kernels = kernel_architecture_ == architecture_
                                  ? ""
                                  : fmt::format(", kernels of sm_{}", kernel_architecture_);
  return fmt::format("sm_{}{}, cuBLASLt {}", architecture_, kernels, CublasLt::load().version());
}

Buffer CudaDevice::allocate(int64_t bytes, std::string_view label) {
  return counted(bytes, label, false, [&] {
    void* data = nullptr;
    const cudaError_t status = cudaMalloc(&data, static_cast<size_t>(std::max<int64_t>(bytes, 1)));
    if (status == cudaErrorMemoryAllocation) {
      size_t free_bytes = 0, total_bytes = 0;
      cudaGetLastError();
      cudaMemGetInfo(&free_bytes, &total_bytes);
      fail(ErrorCode::DoesNotFit, "{}: cannot allocate {} ({} bytes) on {}, which has {} free",
           label, format_bytes(bytes), bytes, name_,
           format_bytes(static_cast<int64_t>(free_bytes)));
    }
    cuda_check(status, "allocating {} bytes for {}", bytes, label);
    return data;
  });
}

Buffer CudaDevice::allocate_pinned(int64_t bytes, std::string_view label) {
  return counted(bytes, label, true, [&] {
    void* memory = nullptr;
    const cudaError_t status = cudaHostAlloc(&memory, static_cast<size_t>(bytes + kPage),
                                             cudaHostAllocPortable | cudaHostAllocMapped);
    // Under WSL 2 far less can be locked than there is, and the status is not always that of memory.
    if (status != cudaSuccess) {
      cudaGetLastError();
      cuda_check(cudaDeviceSynchronize(), "locking host memory for {}", label);  // an earlier fault
      fail(ErrorCode::DoesNotFit,
           "{}: cannot lock {} ({} bytes) of host memory ({}); with less, memory.ram or --ram, "
           "weights come from disk",
           label, format_bytes(bytes), bytes, cudaGetErrorName(status));
    }
    // The driver cuts small allocations out of larger ones: the next page's begin is aligned, and
    // has room before it for where the allocation is.
    const auto at = reinterpret_cast<uintptr_t>(memory);
    auto* page = static_cast<std::byte*>(memory) + (kPage - at % kPage);
    std::memcpy(page - sizeof(memory), &memory, sizeof(memory));
    return static_cast<void*>(page);
  });
}

void CudaDevice::deallocate(void* data, int64_t bytes, bool pinned) noexcept {
  // There is nothing to do about an error: buffers outlive no device, and work on them has ended.
  void* memory = data;
  if (pinned) std::memcpy(&memory, static_cast<std::byte*>(data) - sizeof(memory), sizeof(memory));
  static_cast<void>(pinned ? cudaFreeHost(memory) : cudaFree(memory));
  uncount(bytes, pinned);
}

void CudaDevice::copy_async(Queue queue, void* to, const void* from, int64_t bytes) {
  if (bytes == 0) return;
  cuda_check(
      cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, stream(queue)),
      "copying {} bytes on the {} queue", bytes, name_of(queue));
}

cudaEvent_t CudaDevice::event(Event event) const {
  check(event.id >= 0 && event.id < static_cast<int32_t>(events_.size()), "event {} of {} created",
        event.id, events_.size());
  return events_[static_cast<size_t>(event.id)];
}

Event CudaDevice::create(unsigned flags) {
  cudaEvent_t event = nullptr;
  cuda_check(cudaEventCreateWithFlags(&event, flags), "creating an event");
  events_.push_back(event);
  return {static_cast<int32_t>(events_.size()) - 1};
}

Event CudaDevice::create_event() { return create(cudaEventDisableTiming); }
Event CudaDevice::create_timer() { return create(cudaEventDefault); }

double CudaDevice::elapsed_ms(Event from, Event to) {
  float ms = 0;
  cuda_check(cudaEventElapsedTime(&ms, event(from), event(to)), "reading the time of an event");
  return static_cast<double>(ms);
}

void CudaDevice::record(Event e, Queue queue) {
  cuda_check(cudaEventRecord(event(e), stream(queue)), "recording an event on the {} queue",
             name_of(queue));
}

void CudaDevice::wait(Queue queue, Event e) {
  cuda_check(cudaStreamWaitEvent(stream(queue), event(e), 0), "making the {} queue wait",
             name_of(queue));
}

void CudaDevice::synchronize(Event e) {
  cuda_check(cudaEventSynchronize(event(e)), "waiting for an event");
}

void CudaDevice::synchronize(Queue queue) {
  cuda_check(cudaStreamSynchronize(stream(queue)), "waiting for the {} queue", name_of(queue));
}

}  // namespace cuda

std::unique_ptr<Device> make_cuda_device(int ordinal) {
  int count = 0, driver = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  cudaGetLastError();
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
    fail(ErrorCode::Usage, "device cuda:{}: this machine has no NVIDIA driver", ordinal);
  if (status == cudaErrorInsufficientDriver)
    fail(ErrorCode::Usage,
         "device cuda:{}: this machine's driver is of CUDA {}.{}; this lema needs CUDA {} or later",
         ordinal, driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000);
  if (status != cudaErrorNoDevice) cuda::check_usable(status, ordinal);
  if (ordinal < 0 || ordinal >= count)
    fail(ErrorCode::Usage, "device cuda:{}: this machine has {} CUDA GPUs", ordinal, count);
  cuda::CublasLt::load();
  return std::make_unique<cuda::CudaDevice>(ordinal);
}

bool cuda_is_built() { return true; }

int cuda_device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();  // no driver, or one that is too old: no device
  return 0;
}

}  // namespace lema
