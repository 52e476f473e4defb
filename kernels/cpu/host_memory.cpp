// mmap and munmap behind HostMemory and CpuDevice: 4096-aligned, and given back to the system at
// once.
#include "cpu/host_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include "core/error.h"
#include "core/thread_pool.h"
#include "core/units.h"

namespace lema::cpu {
namespace {

// Makes pages resident, which for a new page is to clear it: several threads side by side where
// there are many. Only a request: what is not done here is done at the first touch.
void commit_pages(char* data, size_t bytes) {
  constexpr size_t kShare = size_t{4} << 20, kHugePage = size_t{2} << 20;
  static const auto cpus = static_cast<size_t>(available_cpus());
  const size_t shares = std::clamp<size_t>(bytes / kShare, 1, cpus);
  const size_t step = (bytes / shares + kHugePage) / kHugePage * kHugePage;
  const auto commit = [=](size_t from) {
    madvise(data + from, std::min(step, bytes - from), MADV_POPULATE_WRITE);
  };
  std::vector<std::jthread> others;
  try {
    for (size_t from = step; from < bytes; from += step) others.emplace_back(commit, from);
  } catch (const std::system_error&) {
  } catch (const std::bad_alloc&) {
  }
  commit(0);
}

}  // namespace

void* map_memory(int64_t bytes, std::string_view label, Commit commit) {
  check(bytes >= 0, "{}: {} bytes asked for", label, bytes);
  const auto length = static_cast<size_t>(std::max<int64_t>(bytes, 1));
  void* data = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED)
    fail(ErrorCode::DoesNotFit, "{}: cannot allocate {} of host memory", label,
         format_bytes(bytes));
  if (commit == Commit::Small) commit_pages(static_cast<char*>(data), length);
  madvise(data, length, MADV_HUGEPAGE);  // only a request
  if (commit == Commit::Huge) commit_pages(static_cast<char*>(data), length);
  return data;
}

void unmap_memory(void* data, int64_t bytes) noexcept {
  munmap(data, static_cast<size_t>(std::max<int64_t>(bytes, 1)));
}

}  // namespace lema::cpu
