// Memory that runs out on request: the failing twin of the C library's allocator, and of the mapped
// memory that devices hand out, linked into lema_faulty. Every request since main began is counted,
// 1 the first, of any library and thread; by environment:
//
//   LEMA_FAULT_MEMORY  at=N[,sticky]: request N gets nothing; sticky: nor does any after it
//   LEMA_FAULT_SITES   file to which the number of the first request of each place in the program
//                      (by the calls that lead to it) is written, a line each
//
// Not in builds with sanitizers, which bring their own allocator.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

#include <execinfo.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "support/failing_memory.h"

// By name, for the linker.
extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
int __real_main(int, char**);
void* __real_mmap(void*, size_t, int, int, int, off_t);
}

namespace {

constexpr int kFrames = 16;

std::atomic<long> g_requests = 0;
std::atomic<bool> g_counts = false;
long g_at = 0;
bool g_sticky = false;
int g_sites = -1;                          // the file's descriptor
std::array<uint64_t, 1 << 16> g_seen{};    // hashes of places, open addressing
std::atomic<int> g_uncounted = 0;          // Uncounted alive

bool is_first_from_here() {
  std::array<void*, kFrames> frames{};
  const int depth = ::backtrace(frames.data(), kFrames);
  uint64_t hash = 1469598103934665603u;
  for (int i = 0; i < depth; ++i)
    hash = (hash ^ reinterpret_cast<uintptr_t>(frames[static_cast<size_t>(i)])) * 1099511628211u;
  for (size_t at = hash % g_seen.size();; at = (at + 1) % g_seen.size()) {
    if (g_seen[at] == hash) return false;
    if (g_seen[at] != 0) continue;
    g_seen[at] = hash;
    return true;
  }
}

bool runs_out() {
  if (!g_counts || g_uncounted > 0) return false;
  const long n = ++g_requests;
  if (g_sites >= 0) {
    const lema::test::Uncounted while_looking;
    std::array<char, 24> line;
    const int bytes = std::snprintf(line.data(), line.size(), "%ld\n", n);
    if (is_first_from_here())
      static_cast<void>(!::write(g_sites, line.data(), static_cast<size_t>(bytes)));
  }
  if (g_at == 0 || n < g_at || (n > g_at && !g_sticky)) return false;
  errno = ENOMEM;
  return true;
}

}  // namespace

namespace lema::test {
Uncounted::Uncounted() { ++g_uncounted; }
Uncounted::~Uncounted() { --g_uncounted; }
}  // namespace lema::test

extern "C" {

void* malloc(size_t bytes) { return runs_out() ? nullptr : __libc_malloc(bytes); }
void* calloc(size_t count, size_t bytes) {
  return runs_out() ? nullptr : __libc_calloc(count, bytes);
}
void* realloc(void* data, size_t bytes) {
  return runs_out() ? nullptr : __libc_realloc(data, bytes);
}
void* aligned_alloc(size_t alignment, size_t bytes) {
  return runs_out() ? nullptr : __libc_memalign(alignment, bytes);
}
int posix_memalign(void** out, size_t alignment, size_t bytes) {
  if (runs_out()) return ENOMEM;
  *out = __libc_memalign(alignment, bytes);
  return *out ? 0 : ENOMEM;
}

void* __wrap_mmap(void* at, size_t bytes, int protection, int flags, int fd, off_t offset) {
  if (fd < 0 && runs_out()) return MAP_FAILED;
  return __real_mmap(at, bytes, protection, flags, fd, offset);
}

int __wrap_main(int argc, char** argv) {
  if (const char* fault = std::getenv("LEMA_FAULT_MEMORY")) {
    g_at = std::atol(fault + std::strlen("at="));
    g_sticky = std::strstr(fault, ",sticky") != nullptr;
  }
  if (const char* sites = std::getenv("LEMA_FAULT_SITES")) {
    g_sites = ::open(sites, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0666);
    std::array<void*, 1> frame;
    ::backtrace(frame.data(), 1);  // loads what it needs
  }
  g_counts = true;
  return __real_main(argc, argv);
}

}  // extern "C"

#else
#include "support/failing_memory.h"

namespace lema::test {
Uncounted::Uncounted() = default;
Uncounted::~Uncounted() = default;
}  // namespace lema::test

extern "C" int __real_main(int, char**);
extern "C" int __wrap_main(int argc, char** argv) { return __real_main(argc, argv); }
extern "C" void* __real_mmap(void*, unsigned long, int, int, int, long);
extern "C" void* __wrap_mmap(void* at, unsigned long bytes, int protection, int flags, int fd,
                             long offset) {
  return __real_mmap(at, bytes, protection, flags, fd, offset);
}
#endif
