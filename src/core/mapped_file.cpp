// Mapping, and the SIGBUS handler with its table of guarded mappings. The handler does what is safe
// in one: atomic loads and stores, and mmap, a bare system call.
#include "core/mapped_file.h"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <array>
#include <cerrno>
#include <csignal>
#include <mutex>
#include <utility>

#include "core/error.h"
#include "core/system_calls.h"

namespace lema {
namespace {

struct Guard {
  std::atomic<uintptr_t> begin = 0, end = 0;  // end 0: the entry is free
  std::atomic<bool> fault = false;
};

// LIMIT: mappings at a time; a model has a file per shard, published ones up to a few hundred.
constexpr int kGuards = 4096;
std::array<Guard, kGuards> g_guards;
std::mutex g_guards_mutex;
struct sigaction g_former;

void on_bus_error(int, siginfo_t* info, void*) {
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  const int code = errno;
  for (Guard& guard : g_guards) {
    const uintptr_t end = guard.end;
    if (address < guard.begin || address >= end) continue;
    const uintptr_t page = address / 4096 * 4096;
    guard.fault = true;
    // Zeros to the mapping's end: a cut file faults but once, and its results are void anyhow.
    void* zeros = ::mmap(reinterpret_cast<void*>(page), end - page, PROT_READ,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    errno = code;
    if (zeros != MAP_FAILED) return;
  }
  ::sigaction(SIGBUS, &g_former, nullptr);  // the access is repeated and takes its former course
}

void install_handler() {
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGBUS, &action, &g_former);
}

int guard_range(const void* data, int64_t bytes) {
  const std::lock_guard lock(g_guards_mutex);
  static const bool installed = (install_handler(), true);
  static_cast<void>(installed);
  for (int i = 0; i < kGuards; ++i) {
    Guard& guard = g_guards[static_cast<size_t>(i)];
    if (guard.end != 0) continue;
    guard.fault = false;
    guard.begin = reinterpret_cast<uintptr_t>(data);
    guard.end = guard.begin + static_cast<uintptr_t>(bytes);
    return i;
  }
  fail(ErrorCode::DoesNotFit, "more than {} mapped files", kGuards);
}

}  // namespace

MappedFile::MappedFile(const File& file) : size_(file.size()) {
  if (size_ == 0) return;
  void* p = sys::map(file.descriptor(), static_cast<size_t>(size_));
  if (p == MAP_FAILED) io_failure("map", file.path());
  data_ = static_cast<std::byte*>(p);
  guard_ = guard_range(data_, size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      guard_(std::exchange(other.guard_, -1)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(guard_, other.guard_);
  return *this;
}

MappedFile::~MappedFile() {
  if (guard_ >= 0) g_guards[static_cast<size_t>(guard_)].end = 0;
  if (data_) ::munmap(data_, static_cast<size_t>(size_));
}

bool MappedFile::has_fault() const {
  return guard_ >= 0 && g_guards[static_cast<size_t>(guard_)].fault;
}

}  // namespace lema
