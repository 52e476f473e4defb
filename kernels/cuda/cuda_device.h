// CudaDevice: one GPU as a Device, with the stream behind each queue for the kernels. Made by
// make_cuda_device; CudaOps takes its compute stream from it.
#pragma once

#include <cuda_runtime_api.h>

#include <string>
#include <vector>

#include "device.h"

namespace lema::cuda {

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(int ordinal);
  ~CudaDevice() override;
  CudaDevice(const CudaDevice&) = delete;

  std::string name() const override { return name_; }
  std::string arithmetic() const override;
  bool reads_host_memory() const override { return false; }
  bool needs_pinned_weights() const override { return true; }
  int64_t free_bytes() const override;
  int64_t used_bytes() const override;
  DType preferred_activation(DType stored) const override;

  Buffer allocate(int64_t bytes, std::string_view label) override;
  Buffer allocate_pinned(int64_t bytes, std::string_view label) override;
  void copy_async(Queue queue, void* to, const void* from, int64_t bytes) override;
  Event create_event() override;
  Event create_timer() override;
  double elapsed_ms(Event from, Event to) override;
  void record(Event event, Queue queue) override;
  void wait(Queue queue, Event event) override;
  void synchronize(Event event) override;
  void synchronize(Queue queue) override;

  cudaStream_t stream(Queue queue) const { return streams_[static_cast<size_t>(queue)]; }
  // Compute capability, 90 for 9.0.
  int architecture() const { return architecture_; }
  // That its kernels are compiled for: less where they come from PTX of an older one.
  int kernel_architecture() const { return kernel_architecture_; }

 private:
  void deallocate(void* data, int64_t bytes, bool pinned) noexcept override;
  cudaEvent_t event(Event event) const;
  Event create(unsigned flags);

  std::string name_;
  int ordinal_ = 0, architecture_ = 0, kernel_architecture_ = 0;
  cudaStream_t streams_[3] = {};
  std::vector<cudaEvent_t> events_;
};

}  // namespace lema::cuda
