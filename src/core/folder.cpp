// System calls behind folder.h.
#include "core/folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <memory>

#include "core/error.h"
#include "core/interrupted.h"
#include "core/log.h"
#include "core/system_calls.h"
#include "core/units.h"

namespace lema {

fs::path parent_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

bool is_there(const fs::path& path) {
  struct stat st {};
  if (sys::stat(path.c_str(), &st) == 0) return true;
  if (errno == ENOENT || errno == ENOTDIR) return false;
  io_failure("stat", path);
}

void create_folders(const fs::path& folder) {
  if (folder.empty() || sys::mkdir(folder.c_str(), 0777) == 0) return;
  if (errno == ENOENT) {
    create_folders(folder.parent_path());
    if (!folder.has_filename() || sys::mkdir(folder.c_str(), 0777) == 0) return;
  }
  struct stat st {};
  const int code = errno;
  if (code == EEXIST && sys::stat(folder.c_str(), &st) == 0 && S_ISDIR(st.st_mode)) return;
  errno = code;
  io_failure("create folder", folder);
}

std::vector<std::string> list_folder(const fs::path& folder) {
  const int fd = uninterrupted(
      [&] { return sys::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
  if (fd < 0 && (errno == ENOENT || errno == ENOTDIR)) return {};
  if (fd < 0) io_failure("open folder", folder);
  const std::unique_ptr<DIR, int (*)(DIR*)> entries(sys::fdopendir(fd), ::closedir);
  if (!entries) {
    const int code = errno;
    sys::close(fd);
    errno = code;
    io_failure("list", folder);
  }
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = ::readdir(entries.get())) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
    errno = 0;
  }
  if (errno != 0) io_failure("list", folder);
  std::sort(names.begin(), names.end());
  return names;
}

void remove_file(const fs::path& path) {
  if (sys::unlink(path.c_str()) != 0 && errno != ENOENT) io_failure("remove", path);
}

void remove_tree(const fs::path& path) {
  if (sys::unlink(path.c_str()) == 0 || errno == ENOENT) return;
  if (errno != EISDIR && errno != EPERM) io_failure("remove", path);  // POSIX says EPERM of folders
  for (const std::string& name : list_folder(path)) remove_tree(path / name);
  if (sys::rmdir(path.c_str()) != 0) io_failure("remove", path);
}

void sync_folder(const fs::path& folder) {
  const int fd = uninterrupted(
      [&] { return sys::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
  if (fd < 0) io_failure("open folder", folder);
  const int result = sys::fsync(fd);
  const int code = errno;
  sys::close(fd);
  errno = code;
  if (result != 0) io_failure("sync folder", folder);
}

void rename_new(const fs::path& from, const fs::path& to) {
  if (sys::rename_new(from.c_str(), to.c_str()) == 0) return;
  // Some network file systems cannot refuse to replace.
  if (errno == EINVAL || errno == ENOSYS) {
    if (is_there(to))
      errno = EEXIST;
    else if (sys::rename(from.c_str(), to.c_str()) == 0)
      return;
  }
  io_failure("rename into place", to);
}

void point_link(const fs::path& link, const std::string& target) {
  StagedFile staged(link);
  if (sys::symlink(target.c_str(), staged.path().c_str()) != 0) {
    // As exFAT and some network shares have none: the folder itself can be named all the same.
    if (errno != EPERM && errno != EOPNOTSUPP && errno != ENOSYS) io_failure("create link", link);
    std::error_code unknown;
    if (fs::is_symlink(link, unknown)) remove_file(link);
    return log::warn("{}: its file system has no links; {} is what it would name", link.string(),
                     target);
  }
  staged.commit();
}

void check_outside(const fs::path& path, const fs::path& input) {
  const fs::path real = fs::weakly_canonical(path), folder = fs::weakly_canonical(input);
  if (std::mismatch(folder.begin(), folder.end(), real.begin(), real.end()).first == folder.end())
    fail(ErrorCode::Usage, "{}: lies inside {}, which is read; name a folder elsewhere",
         path.string(), input.string());
}

void check_free_space(const fs::path& path, int64_t bytes) {
  fs::path at = fs::absolute(path);
  while (!is_there(at)) at = at.parent_path();
  struct statvfs space {};
  if (sys::statvfs(at.c_str(), &space) != 0) io_failure("ask for the free space", at);
  const auto free = static_cast<int64_t>(space.f_bavail * space.f_frsize);
  if (free < bytes)
    fail(ErrorCode::Io, "{}: {} are to be written, {} are free", path.string(),
         format_bytes(bytes), format_bytes(free));
}

namespace {

// The folder, open and locked until it is closed; -1 where another process holds it, or where it
// cannot be locked.
int hold(const fs::path& folder) {
  const int fd = uninterrupted(
      [&] { return sys::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC); });
  if (fd < 0 || sys::flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
  sys::close(fd);
  return -1;
}

// What was left of earlier tries. A number may be that of a process of another machine or container
// too: a folder that is written to is held.
void remove_abandoned(const fs::path& final_path) {
  const fs::path parent = parent_of(final_path);
  for (const std::string& name : list_folder(parent)) {
    if (abandoned_name(name) != final_path.filename().string()) continue;
    const int fd = hold(parent / name);
    if (fd < 0) continue;
    sys::close(fd);
    remove_leftover(parent / name);
  }
}

}  // namespace

StagedFolder::StagedFolder(fs::path final_path, bool replaces)
    : final_(std::move(final_path)), replaces_(replaces) {
  // "out/" has an empty file name; its parent must not become itself.
  if (!final_.has_filename()) final_ = final_.parent_path();
  if (fs::exists(fs::symlink_status(final_)) && !replaces_)
    fail(ErrorCode::Usage, "{}: already exists; name a new folder or remove it", final_.string());
  create_folders(parent_of(final_));
  try {
    remove_abandoned(final_);
  } catch (const Error& error) {
    log::warn("{}", error.what());
  }
  staged_ = temporary_name(final_);
  if (sys::mkdir(staged_.c_str(), 0777) != 0) io_failure("create folder", staged_);
  held_ = hold(staged_);
}

StagedFolder::~StagedFolder() {
  if (held_ >= 0) sys::close(held_);
  if (committed_) return;
  try {
    remove_tree(staged_);
  } catch (const Error& error) {  // the failure that leads here is the one to report
    log::warn("{}", error.what());
  } catch (const std::bad_alloc&) {  // the next run removes it
  }
}

void StagedFolder::commit() {
  for (const std::string& name : list_folder(staged_))
    if (fs::is_directory(staged_ / name)) sync_folder(staged_ / name);
  sync_folder(staged_);
  if (!replaces_) {
    rename_new(staged_, final_);
  } else if (sys::exchange(staged_.c_str(), final_.c_str()) != 0) {
    if (errno == EINVAL || errno == ENOSYS)
      fail(ErrorCode::Usage, "{}: this file system cannot replace a folder", final_.string());
    io_failure("replace", final_);
  }
  committed_ = true;
  sync_folder(parent_of(final_));
  committed_ = !replaces_;  // what was there before goes
}

std::optional<std::string> abandoned_name(std::string_view name) {
  constexpr std::string_view kMark = ".tmp-";
  const size_t at = name.rfind(kMark);
  if (!name.starts_with('.') || at == name.npos || at < 2) return std::nullopt;
  const char *begin = name.data() + at + kMark.size(), *end = name.data() + name.size();
  pid_t pid = 0;
  const auto [stop, error] = std::from_chars(begin, end, pid);
  if (error != std::errc() || pid <= 0 || end - stop != 9 || *stop != '-' ||
      std::string_view(stop + 1, end).find_first_not_of("0123456789abcdef") != name.npos)
    return std::nullopt;
  // In a container every process may have the same number: ours is of one before us.
  if (pid != ::getpid() && (::kill(pid, 0) == 0 || errno != ESRCH)) return std::nullopt;
  return std::string(name.substr(1, at - 1));
}

void remove_leftover(const fs::path& path) {
  log::info("{}: left by a process that was cut off; removed", path.string());
  remove_tree(path);
}

namespace {

constexpr const char* kLockName = ".lock";
constexpr int64_t kMaxLockBytes = 1024;

std::string holder(const fs::path& lock) {
  try {
    std::string text = read_text(lock, kMaxLockBytes);
    while (text.ends_with('\n')) text.pop_back();
    return text.empty() ? "another process" : escaped(text);
  } catch (const Error&) {  // gone meanwhile
    return "another process";
  }
}

// Whether the path still names what is open: the holder before us removes it when it ends.
bool names(const fs::path& path, int fd) {
  struct stat mine {}, there {};
  if (sys::fstat(fd, &mine) != 0) io_failure("stat", path);
  if (sys::stat(path.c_str(), &there) != 0) {
    if (errno != ENOENT) io_failure("stat", path);
    return false;
  }
  return mine.st_dev == there.st_dev && mine.st_ino == there.st_ino;
}

}  // namespace

FolderLock::FolderLock(const fs::path& folder)
    : folder_(folder), path_(folder / kLockName), created_(!is_there(folder)) {
  create_folders(folder_);
  for (;;) {
    File file = File::append(path_);
    if (sys::flock(file.descriptor(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK)
        fail(ErrorCode::Usage, "{}: in use by {}", folder_.string(), holder(path_));
      if (errno != ENOLCK && errno != EOPNOTSUPP && errno != EINVAL && errno != ENOSYS)
        io_failure("lock", folder_);
      log::warn("{}: this file system has no locks; nothing keeps a second run out",
                folder_.string());
      if (file.size() == 0) sys::unlink(path_.c_str());  // which holds nothing
      return;
    }
    if (!names(path_, file.descriptor())) continue;
    if (file.size() == 0) {
      file_ = std::move(file);
      break;
    }
    remove_file(path_);  // of a process that died
  }
  try {
    char host[256] = "?";
    ::gethostname(host, sizeof host - 1);
    const std::string text = fmt::format("process {} on {}\n", ::getpid(), host);
    file_.write(text.data(), std::ssize(text));
  } catch (...) {  // no destructor runs
    sys::unlink(path_.c_str());
    if (created_) sys::rmdir(folder_.c_str());
    throw;
  }
}

FolderLock::~FolderLock() {
  if (file_.descriptor() >= 0) sys::unlink(path_.c_str());
  if (created_) sys::rmdir(folder_.c_str());  // fails where a run has left something
}

}  // namespace lema
