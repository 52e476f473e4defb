// System calls behind file.h: EINTR and short transfers are retried, everything else is an Error.
#include "core/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <random>
#include <thread>

#include "core/error.h"

namespace lema {
namespace {

[[noreturn]] void io_failure(const char* action, const fs::path& path) {
  const int code = errno;
  fail(ErrorCode::Io, "{}: cannot {}: {}", path.string(), action, std::strerror(code));
}

int64_t mtime_ns(const struct stat& st) {
  return int64_t{st.st_mtim.tv_sec} * 1'000'000'000 + st.st_mtim.tv_nsec;
}

}  // namespace

File File::open(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);  // no wait on a FIFO
  if (fd < 0) {
    if (errno == ENOENT || errno == ENOTDIR)
      fail(ErrorCode::BadInput, "{}: no such file", path.string());
    io_failure("open", path);
  }
  File file(fd, path);
  struct stat st {};
  if (::fstat(fd, &st) != 0) io_failure("stat", path);
  if (!S_ISREG(st.st_mode)) fail(ErrorCode::BadInput, "{}: not a regular file", path.string());
  file.opened_size_ = st.st_size;
  file.opened_mtime_ns_ = mtime_ns(st);
  return file;
}

std::optional<File> File::open_direct() const {
  // By way of the descriptor: the path may name another file meanwhile.
  const std::string self = fmt::format("/proc/self/fd/{}", fd_);
  const int fd = ::open(self.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
  if (fd < 0) return std::nullopt;
  return File(fd, path_);
}

File File::create(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
  if (fd < 0) io_failure("create", path);
  return File(fd, path);
}

File File::append(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (fd < 0) io_failure("open", path);
  return File(fd, path);
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
  if (fd_ >= 0) ::close(fd_);
}

int64_t File::size() const {
  struct stat st {};
  if (::fstat(fd_, &st) != 0) io_failure("stat", path_);
  return st.st_size;
}

void File::read_at(void* out, int64_t bytes, int64_t offset) const {
  const int64_t got = read_up_to(out, bytes, offset);
  if (got < bytes)
    fail(ErrorCode::BadInput, "{}: ends at byte {}, {} more bytes expected", path_.string(),
         offset + got, bytes - got);
}

int64_t File::read_up_to(void* out, int64_t bytes, int64_t offset) const {
  auto* p = static_cast<char*>(out);
  int64_t done = 0;
  for (int failures = 0; done < bytes;) {
    const ssize_t n = ::pread(fd_, p + done, static_cast<size_t>(bytes - done), offset + done);
    if (n < 0 && errno == EINTR) continue;
    // Past the page cache the file's end leaves an offset at which the next read is refused.
    if (n == 0 || (n < 0 && errno == EINVAL && done % kDiskBlock != 0)) break;
    if (n < 0 && errno == EIO && ++failures <= 3) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20 << failures));
      continue;
    }
    if (n < 0) io_failure(fmt::format("read at byte {}", offset + done).c_str(), path_);
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
  if (::fstat(fd_, &st) != 0) io_failure("stat", path_);
  if (st.st_size != opened_size_)
    fail(ErrorCode::BadInput, "{}: has {} bytes and had {} when it was opened", path_.string(),
         st.st_size, opened_size_);
  if (mtime_ns(st) != opened_mtime_ns_)
    fail(ErrorCode::BadInput, "{}: was written to since it was opened", path_.string());
}

void File::write(const void* data, int64_t bytes) {
  const auto* p = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t n = ::write(fd_, p, static_cast<size_t>(bytes));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) io_failure("write", path_);
    p += n;
    bytes -= n;
  }
}

void File::sync() {
  if (::fsync(fd_) != 0) io_failure("sync", path_);
}

void File::close() {
  const int fd = std::exchange(fd_, -1);
  if (fd >= 0 && ::close(fd) != 0) io_failure("close", path_);
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

namespace {

std::string random_suffix() {
  std::random_device device;
  return fmt::format("{}-{:08x}", ::getpid(), device());
}

}  // namespace

StagedFile::StagedFile(fs::path final_path)
    : final_(std::move(final_path)),
      staged_(final_.parent_path() /
              fmt::format(".{}.tmp-{}", final_.filename().string(), random_suffix())) {}

StagedFile::~StagedFile() {
  if (!committed_) ::unlink(staged_.c_str());
}

void StagedFile::commit() {
  if (::rename(staged_.c_str(), final_.c_str()) != 0) io_failure("rename into place", final_);
  committed_ = true;
  sync_folder(final_.has_parent_path() ? final_.parent_path() : fs::path("."));
}

void write_file(const fs::path& path, std::string_view bytes) {
  StagedFile staged(path);
  File file = File::create(staged.path());
  file.write(bytes.data(), static_cast<int64_t>(bytes.size()));
  file.sync();
  file.close();
  staged.commit();
}

void sync_folder(const fs::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) io_failure("open folder", folder);
  const int result = ::fsync(fd);
  const int code = errno;
  ::close(fd);
  errno = code;
  if (result != 0) io_failure("sync folder", folder);
}

void rename_new(const fs::path& from, const fs::path& to) {
  // renameat2 exists since Linux 3.15; some network file systems lack RENAME_NOREPLACE.
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return;
  if (errno == EINVAL || errno == ENOSYS) {
    if (fs::exists(to))
      errno = EEXIST;
    else if (::rename(from.c_str(), to.c_str()) == 0)
      return;
  }
  io_failure("rename into place", to);
}

StagedFolder::StagedFolder(fs::path final_path) : final_(std::move(final_path)) {
  // "out/" has an empty file name; its parent must not become itself.
  if (!final_.has_filename()) final_ = final_.parent_path();
  if (fs::exists(fs::symlink_status(final_)))
    fail(ErrorCode::Usage, "{}: already exists; name a new folder or remove it", final_.string());
  const fs::path parent = final_.has_parent_path() ? final_.parent_path() : fs::path(".");
  std::error_code error;
  fs::create_directories(parent, error);
  staged_ = parent / fmt::format(".{}.tmp-{}", final_.filename().string(), random_suffix());
  if (!fs::create_directory(staged_, error) || error)
    fail(ErrorCode::Io, "{}: cannot create folder: {}", staged_.string(), error.message());
}

StagedFolder::~StagedFolder() {
  std::error_code error;
  if (!committed_) fs::remove_all(staged_, error);
}

void StagedFolder::commit() {
  for (const auto& entry : fs::recursive_directory_iterator(staged_)) {
    if (!entry.is_regular_file()) continue;
    File::open(entry.path()).sync();
  }
  sync_folder(staged_);
  rename_new(staged_, final_);
  committed_ = true;
  sync_folder(final_.has_parent_path() ? final_.parent_path() : fs::path("."));
}

}  // namespace lema
