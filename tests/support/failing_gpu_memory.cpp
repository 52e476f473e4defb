// The failing twin of the memory that CUDA hands out, device and page-locked, linked into
// lema_faulty where CUDA is built. Every allocation is counted, 1 the first; by environment:
//
//   LEMA_FAULT_GPU_MEMORY      at=N[,sticky]: allocation N gets nothing; sticky: nor does any later
//   LEMA_FAULT_GPU_MEMORY_LOG  file to which, at the end, the number of allocations goes, and that
//                              of those which were not freed
#include <atomic>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

constexpr int kOutOfMemory = 2;  // cudaErrorMemoryAllocation

struct Allocations {
  ~Allocations() {
    const char* log = std::getenv("LEMA_FAULT_GPU_MEMORY_LOG");
    std::FILE* file = log ? std::fopen(log, "w") : nullptr;
    if (!file) return;
    std::fputs((std::to_string(asked) + " " + std::to_string(held) + "\n").c_str(), file);
    std::fclose(file);
  }

  template <typename Allocate>
  int allocate(const Allocate& real) {
    static const char* const fault = std::getenv("LEMA_FAULT_GPU_MEMORY");
    static const long at = fault ? std::atol(fault + std::strlen("at=")) : 0;
    static const bool sticky = fault && std::strstr(fault, ",sticky");
    const long n = ++asked;
    if (at != 0 && (n == at || (n > at && sticky))) return kOutOfMemory;
    const int status = real();
    held += status == 0;
    return status;
  }
  template <typename Free>
  int release(const void* data, const Free& real) {
    const int status = real();
    held -= data != nullptr && status == 0;
    return status;
  }

  std::atomic<long> asked = 0, held = 0;
};

Allocations g_allocations;

}  // namespace

// By name, for the linker.
extern "C" {
int __real_cudaMalloc(void** out, size_t bytes);
int __real_cudaHostAlloc(void** out, size_t bytes, unsigned flags);
int __real_cudaFree(void* data);
int __real_cudaFreeHost(void* data);

int __wrap_cudaMalloc(void** out, size_t bytes) {
  return g_allocations.allocate([&] { return __real_cudaMalloc(out, bytes); });
}
int __wrap_cudaHostAlloc(void** out, size_t bytes, unsigned flags) {
  return g_allocations.allocate([&] { return __real_cudaHostAlloc(out, bytes, flags); });
}
int __wrap_cudaFree(void* data) {
  return g_allocations.release(data, [&] { return __real_cudaFree(data); });
}
int __wrap_cudaFreeHost(void* data) {
  return g_allocations.release(data, [&] { return __real_cudaFreeHost(data); });
}
}
