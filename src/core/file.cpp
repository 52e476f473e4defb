// System calls behind file.h: interrupted and short transfers are continued, everything else is an
// Error.
#include "core/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <random>
#include <thread>

#include "core/error.h"
#include "core/folder.h"
#include "core/interrupted.h"
#include "core/system_calls.h"

namespace lema {
namespace {

int64_t mtime_ns(const struct stat& st) {
  return int64_t{st.st_mtim.tv_sec} * 1'000'000'000 + st.st_mtim.tv_nsec;
}

}  // namespace

// The path is copied before the descriptor is there, which a copy that fails would leave open.

File File::open(const fs::path& path) {
  fs::path own = path;
  const int fd = uninterrupted([&] {
    return sys::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);  // no wait on a FIFO
  });
  if (fd < 0) {
    if (errno == ENOENT || errno == ENOTDIR)
      fail(ErrorCode::BadInput, "{}: no such file", path.string());
    io_failure("open", path);
  }
  File file(fd, std::move(own));
  struct stat st {};
  if (sys::fstat(fd, &st) != 0) io_failure("stat", path);
  if (!S_ISREG(st.st_mode)) fail(ErrorCode::BadInput, "{}: not a regular file", path.string());
  file.opened_size_ = st.st_size;
  file.opened_mtime_ns_ = mtime_ns(st);
  return file;
}

std::optional<File> File::open_direct() const {
  fs::path own = path_;
  // By way of the descriptor: the path may name another file meanwhile.
  const std::string self = fmt::format("/proc/self/fd/{}", fd_);
  const int fd = sys::open(self.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
  if (fd < 0) return std::nullopt;
  File file(fd, std::move(own));
  // Some file systems open what they then refuse to read, e.g. NTFS a compressed file.
  alignas(kDiskBlock) std::byte block[kDiskBlock];
  const bool refuses =
      sys::pread(fd, block, sizeof(block), 0) < 0 && (errno == EINVAL || errno == EOPNOTSUPP);
  return refuses ? std::nullopt : std::optional(std::move(file));
}

File File::create(const fs::path& path) {
  fs::path own = path;
  const int fd = uninterrupted([&] {
    return sys::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
  });
  if (fd < 0) io_failure("create", path);
  return File(fd, std::move(own));
}

File File::append(const fs::path& path) {
  fs::path own = path;
  const int fd = uninterrupted([&] {
    return sys::open(path.c_str(),
                     O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0666);
  });
  const bool is_strange = fd < 0 && (errno == ELOOP || errno == ENXIO || errno == EISDIR);
  if (fd < 0 && !is_strange) io_failure("open", path);
  File file(fd, std::move(own));
  struct stat st {};
  if (fd >= 0 && sys::fstat(fd, &st) != 0) io_failure("stat", path);
  if (!S_ISREG(st.st_mode)) fail(ErrorCode::Io, "{}: not a regular file", path.string());
  return file;
}

File::File(File&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      path_(std::move(other.path_)),
      opened_size_(other.opened_size_),
      opened_mtime_ns_(other.opened_mtime_ns_) {}

File& File::operator=(File&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(path_, other.path_);
  std::swap(opened_size_, other.opened_size_);
  std::swap(opened_mtime_ns_, other.opened_mtime_ns_);
  return *this;
}

File::~File() {
  if (fd_ >= 0) sys::close(fd_);
}

int64_t File::size() const {
  struct stat st {};
  if (sys::fstat(fd_, &st) != 0) io_failure("stat", path_);
  return st.st_size;
}

void File::read_at(void* out, int64_t bytes, int64_t offset) const {
  const int64_t got = read_up_to(out, bytes, offset);
  if (got == bytes) return;
  const int64_t end = std::min(offset + got, size());  // it may end before what is read begins
  fail(ErrorCode::BadInput, "{}: ends at byte {}, {} more bytes expected", path_.string(), end,
       offset + bytes - end);
}

int64_t File::read_up_to(void* out, int64_t bytes, int64_t offset) const {
  auto* p = static_cast<char*>(out);
  int64_t done = 0;
  for (int failures = 0; done < bytes;) {
    const ssize_t n = uninterrupted([&] {
      return sys::pread(fd_, p + done, static_cast<size_t>(bytes - done), offset + done);
    });
    // Past the page cache the file's end leaves an offset at which the next read is refused.
    if (n == 0 || (n < 0 && errno == EINVAL && done % kDiskBlock != 0)) break;
    if (n < 0 && errno == EIO && ++failures <= 3) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20 << failures));
      continue;
    }
    if (n < 0) io_failure(fmt::format("read at byte {}", offset + done), path_);
    done += n;
  }
  return done;
}

void File::will_read(int64_t bytes, int64_t offset) const {
  ::posix_fadvise(fd_, offset, bytes, POSIX_FADV_WILLNEED);
}

void File::forget_cached(int64_t bytes, int64_t offset) const {
  ::posix_fadvise(fd_, offset, bytes, POSIX_FADV_DONTNEED);
}

void File::check_unchanged() const {
  struct stat st {};
  if (sys::fstat(fd_, &st) != 0) io_failure("stat", path_);
  if (st.st_size != opened_size_)
    fail(ErrorCode::BadInput, "{}: has {} bytes and had {} when it was opened", path_.string(),
         st.st_size, opened_size_);
  if (mtime_ns(st) != opened_mtime_ns_)
    fail(ErrorCode::BadInput, "{}: was written to since it was opened", path_.string());
}

void File::write(const void* data, int64_t bytes) {
  const auto* p = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t n =
        uninterrupted([&] { return sys::write(fd_, p, static_cast<size_t>(bytes)); });
    if (n == 0) errno = ENOSPC;  // which the kernel would say at the next call
    if (n <= 0) io_failure("write", path_);
    p += n;
    bytes -= n;
  }
}

void File::sync() {
  if (sys::fsync(fd_) != 0) io_failure("sync", path_);
}

void File::close() {
  const int fd = std::exchange(fd_, -1);
  // An interrupted close has closed.
  if (fd >= 0 && sys::close(fd) != 0 && errno != EINTR) io_failure("close", path_);
}

std::string read_text(const fs::path& path, int64_t max_bytes) {
  const File file = File::open(path);
  const int64_t size = file.size();
  if (size > max_bytes)
    fail(ErrorCode::BadInput, "{}: {} bytes, at most {} are accepted", path.string(), size,
         max_bytes);
  std::string text(static_cast<size_t>(size), '\0');
  file.read_at(text.data(), size, 0);
  return text;
}

void io_failure(std::string_view action, const fs::path& path) {
  const int code = errno;
  fail(code == ENOMEM ? ErrorCode::DoesNotFit : ErrorCode::Io, "{}: cannot {}: {}", path.string(),
       action, code == ENOMEM ? "out of memory" : std::strerror(code));
}

fs::path temporary_name(const fs::path& path) {
  std::random_device device;
  return path.parent_path() /
         fmt::format(".{}.tmp-{}-{:08x}", path.filename().string(), ::getpid(), device());
}

StagedFile::StagedFile(fs::path final_path)
    : final_(std::move(final_path)), staged_(temporary_name(final_)) {}

StagedFile::~StagedFile() {
  if (!committed_) sys::unlink(staged_.c_str());
}

void StagedFile::commit() {
  if (sys::rename(staged_.c_str(), final_.c_str()) != 0) io_failure("rename into place", final_);
  committed_ = true;
  sync_folder(parent_of(final_));
}

void write_file(const fs::path& path, std::string_view bytes) {
  StagedFile staged(path);
  write_new_file(staged.path(), bytes);
  staged.commit();
}

void write_new_file(const fs::path& path, std::string_view bytes) {
  File file = File::create(path);
  file.write(bytes.data(), static_cast<int64_t>(bytes.size()));
  file.sync();
  file.close();
}

}  // namespace lema
