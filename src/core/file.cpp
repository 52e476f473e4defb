// System calls behind file.h: EINTR and short transfers are retried, everything else is an Error.
#include "core/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <random>

#include "core/error.h"

namespace lema {
namespace {

[[noreturn]] void io_failure(const char* action, const fs::path& path) {
  const int code = errno;
  fail(ErrorCode::Io, "{}: cannot {}: {}", path.string(), action, std::strerror(code));
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
  return file;
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
    : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)) {}

File& File::operator=(File&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(path_, other.path_);
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
  auto* p = static_cast<char*>(out);
  while (bytes > 0) {
    const ssize_t n = ::pread(fd_, p, static_cast<size_t>(bytes), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) io_failure("read", path_);
    if (n == 0)
      fail(ErrorCode::BadInput, "{}: ends at byte {}, {} more bytes expected", path_.string(),
           offset, bytes);
    p += n;
    offset += n;
    bytes -= n;
  }
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

MappedFile::MappedFile(const fs::path& path) {
  const File file = File::open(path);
  size_ = file.size();
  if (size_ == 0) return;
  void* p =
      ::mmap(nullptr, static_cast<size_t>(size_), PROT_READ, MAP_PRIVATE, file.descriptor(), 0);
  if (p == MAP_FAILED) io_failure("map", path);
  data_ = static_cast<std::byte*>(p);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(data_, static_cast<size_t>(size_));
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

ResidentMemory resident_memory() {
  std::ifstream status("/proc/self/status");
  ResidentMemory memory;
  for (std::string line; std::getline(status, line);) {
    long long kib = 0;
    if (std::sscanf(line.c_str(), "VmRSS: %lld", &kib) == 1) memory.total = kib * 1024;
    if (std::sscanf(line.c_str(), "RssFile: %lld", &kib) == 1) memory.file_mapped = kib * 1024;
    if (std::sscanf(line.c_str(), "VmHWM: %lld", &kib) == 1) memory.peak = kib * 1024;
  }
  return memory;
}

}  // namespace lema
