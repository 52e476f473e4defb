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
  void* data = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED)
    fail(ErrorCode::DoesNotFit, "{}: cannot allocate {} of host memory", label,
         format_bytes(bytes));
  // Pages of 2 MiB where the kernel has them: fewer faults, and a row of a matrix seldom costs a
  // page walk. Both calls are only requests: what they do not do is done at the first touch.
  madvise(data, length, MADV_HUGEPAGE);
  if (commit) madvise(data, length, MADV_POPULATE_WRITE);
  return data;
}

void unmap_memory(void* data, int64_t bytes) noexcept {
  munmap(data, static_cast<size_t>(std::max<int64_t>(bytes, 1)));
}

}  // namespace lema::cpu
