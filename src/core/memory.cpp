// Reads /proc; sets glibc's heap. Called by the training loop, the plan and the metrics.
#include "core/memory.h"

#include <malloc.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <string>

#include "core/control_groups.h"
#include "core/out_of_memory.h"

namespace lema {
ResidentMemory resident_memory() {
  std::ifstream status = stream_of("/proc/self/status");
  ResidentMemory memory;
  for (std::string line; std::getline(status, line);) {
    long long kib = 0;
    if (std::sscanf(line.c_str(), "VmRSS: %lld", &kib) == 1) memory.total = kib * 1024;
    if (std::sscanf(line.c_str(), "RssAnon: %lld", &kib) == 1) memory.anonymous = kib * 1024;
    if (std::sscanf(line.c_str(), "RssFile: %lld", &kib) == 1) memory.file_mapped = kib * 1024;
    if (std::sscanf(line.c_str(), "VmHWM: %lld", &kib) == 1) memory.peak = kib * 1024;
  }
  return memory;
}

int64_t available_memory() {
  std::ifstream info = stream_of("/proc/meminfo");
  int64_t available = INT64_MAX;
  for (std::string line; std::getline(info, line);) {
    long long kib = 0;
    if (std::sscanf(line.c_str(), "MemAvailable: %lld", &kib) == 1) available = kib * 1024;
  }
  return std::min(available, ControlGroups().memory_left());
}

int64_t less_reserve(int64_t available) { return available - available / 10; }

// A fixed threshold also ends glibc's habit of raising it, after which large blocks stay in the
// heap.
void return_freed_memory() {
  mallopt(M_MMAP_THRESHOLD, 256 << 10);
  mallopt(M_TRIM_THRESHOLD, 1 << 20);
  malloc_trim(0);
}

// glibc: 8 bytes of header, multiples of 16, at least 32.
int64_t heap_bytes(int64_t bytes) {
  return bytes == 0 ? 0 : std::max<int64_t>(32, (bytes + 8 + 15) / 16 * 16);
}

}  // namespace lema
