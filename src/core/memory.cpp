// Reads /proc and the control groups; sets glibc's heap. Called by the training loop, the plan and
// the metrics.
#include "core/memory.h"

#include <malloc.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <optional>
#include <string>

namespace lema {
namespace {

std::optional<int64_t> number_in(const std::string& path) {
  std::ifstream file(path);
  int64_t value = 0;
  if (file >> value) return value;
  return std::nullopt;  // absent, or "max"
}

// Pages of files that a group counts as used, and that go where memory is wanted.
int64_t cached_bytes(const std::string& folder) {
  std::ifstream stat(folder + "/memory.stat");
  int64_t cached = 0, bytes = 0;
  for (std::string name; stat >> name >> bytes;)
    if (name == "active_file" || name == "inactive_file") cached += bytes;
  return cached;
}

}  // namespace

int64_t left_in_groups(const std::string& root, const std::string& process_groups) {
  int64_t left = INT64_MAX;
  std::ifstream groups(process_groups);
  for (std::string line; std::getline(groups, line);) {
    if (!line.starts_with("0::")) continue;
    std::string group = line.substr(3);
    for (;; group.resize(group.rfind('/'))) {
      const std::string folder = root + group;
      const auto limit = number_in(folder + "/memory.max"),
                 used = number_in(folder + "/memory.current");
      if (limit && used)
        left = std::min(left, std::max<int64_t>(0, *limit - *used + cached_bytes(folder)));
      if (group.find('/') == std::string::npos) break;
    }
  }
  return left;
}

ResidentMemory resident_memory() {
  std::ifstream status("/proc/self/status");
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
  std::ifstream info("/proc/meminfo");
  int64_t available = INT64_MAX;
  for (std::string line; std::getline(info, line);) {
    long long kib = 0;
    if (std::sscanf(line.c_str(), "MemAvailable: %lld", &kib) == 1) available = kib * 1024;
  }
  return std::min(available, left_in_groups("/sys/fs/cgroup", "/proc/self/cgroup"));
}

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
