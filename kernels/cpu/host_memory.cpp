// mmap and munmap behind HostMemory and CpuDevice: 4096-aligned, and given back to the system at
// once.
#include "cpu/host_memory.h"

#include <sys/mman.h>

#include <algorithm>

#include "core/error.h"
#include "core/units.h"

namespace lema::cpu {

void* map_memory(int64_t bytes, std::string_view label, bool commit) {
  check(bytes >= 0, "{}: {} bytes asked for", label, bytes);
  const auto length = static_cast<size_t>(std::max<int64_t>(bytes, 1));
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | (commit ? MAP_POPULATE : 0);
  void* data = mmap(nullptr, length, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (data == MAP_FAILED)
    fail(ErrorCode::DoesNotFit, "{}: cannot allocate {} of host memory", label,
         format_bytes(bytes));
  return data;
}

void unmap_memory(void* data, int64_t bytes) noexcept {
  munmap(data, static_cast<size_t>(std::max<int64_t>(bytes, 1)));
}

}  // namespace lema::cpu
