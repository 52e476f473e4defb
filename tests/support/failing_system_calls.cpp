// The failing twin of src/core/system_calls.cpp: linked in its place into lema_faulty, the binary
// of the tests under tests/fault. Every call is counted, 1 the first; by environment:
//
//   LEMA_FAULT         at=N,do=WHAT[,of=FUNCTION][,leave=BYTES][,sticky]: at call N (of that
//                      function). WHAT is the name of an errno (the call fails), short (a transfer
//                      of half), kill, cut (power loss), cut_committed (the same after a commit of
//                      the journal) or fill (to the last byte, or but BYTES) of LEMA_FAULT_MOUNT,
//                      slow, or INT, TERM, HUP, USR1, STOP (that signal comes). sticky: at every
//                      later call of the same function too
//   LEMA_FAULT_UNDER   only calls whose path begins so are counted
//   LEMA_FAULT_LOG     file to which a line "N function path" is appended for each counted call
//   LEMA_FAULT_MOUNT   mount point of the file system whose power is cut: EXT4_IOC_SHUTDOWN or
//                      XFS_IOC_GOINGDOWN without a flush of data
//   LEMA_FAULT_EARLY   at=N[,do=data]: at call N the journal is committed, by syncing a file of
//                      its own; data: instead the written pages of all open files go to the disk,
//                      their metadata not
//   LEMA_FAULT_WRITER  a writer that lacks a part of the commit protocol: nofilesync,
//                      nofoldersync, norename, earlyprune
#include <fcntl.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>

#include "core/system_calls.h"
#include "support/failing_memory.h"

namespace {

namespace fs = std::filesystem;

std::string text_of(const char* variable) {
  const char* text = std::getenv(variable);
  return text ? text : "";
}

// "7" of "at=7,do=EIO" for "at".
std::string part(const std::string& spec, const std::string& key) {
  const size_t at = ("," + spec).find("," + key + "=");
  if (at == spec.npos) return "";
  const size_t begin = at + key.size() + 1;
  return spec.substr(begin, spec.find(',', begin) - begin);
}

const std::map<std::string, int> kErrors = {
    {"EIO", EIO},       {"ENOSPC", ENOSPC}, {"EROFS", EROFS},   {"EMFILE", EMFILE},
    {"EINTR", EINTR},   {"EDQUOT", EDQUOT}, {"ENOMEM", ENOMEM}, {"EACCES", EACCES},
    {"EAGAIN", EAGAIN}, {"ENOLCK", ENOLCK}, {"EPERM", EPERM},   {"EINVAL", EINVAL}};
const std::map<std::string, int> kSignals = {
    {"INT", SIGINT}, {"TERM", SIGTERM}, {"HUP", SIGHUP}, {"USR1", SIGUSR1}, {"STOP", SIGSTOP}};

struct Settings {
  std::string fault = text_of("LEMA_FAULT"), under = text_of("LEMA_FAULT_UNDER"),
              log = text_of("LEMA_FAULT_LOG"), mount = text_of("LEMA_FAULT_MOUNT"),
              writer = text_of("LEMA_FAULT_WRITER");
  long at = std::atol(part(fault, "at").c_str());
  std::string early_spec = text_of("LEMA_FAULT_EARLY"), early_what = part(early_spec, "do");
  long early = std::atol(part(early_spec, "at").c_str());
  std::string what = part(fault, "do"), of = part(fault, "of");
  bool sticky = fault.ends_with(",sticky");
};

// Made before main, so that it outlives the log, which closes its file when lema exits.
const Settings g_settings;
std::mutex g_mutex;
std::array<std::string, 4096> g_paths;  // by descriptor
long g_calls = 0;
std::string g_sticky;  // the function that fails from here on

enum class Fault { None, Error, Short };

void commit_journal() {
  const int fd = ::open((g_settings.mount + "/early").c_str(), O_CREAT | O_WRONLY, 0666);
  static_cast<void>(!::write(fd, "x", 1));
  ::fsync(fd);
  ::close(fd);
}

void write_back() {
  for (size_t fd = 0; fd < g_paths.size(); ++fd)
    if (g_paths[fd].starts_with(g_settings.mount))
      ::sync_file_range(static_cast<int>(fd), 0, 0,
                        SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
}

[[noreturn]] void cut_power() {
  constexpr unsigned long kShutdown = 0x8004587D;
  unsigned int flags = g_settings.what == "cut" ? 2 : 1;  // no flush; of the journal
  const int fd = ::open(g_settings.mount.c_str(), O_RDONLY);
  ::_exit(fd >= 0 && ::ioctl(fd, kShutdown, &flags) == 0 ? 99 : 98);
}

void fill_disk() {
  const int fd = ::open((g_settings.mount + "/filler").c_str(), O_CREAT | O_WRONLY, 0666);
  const std::array<char, 4096> block{};
  for (size_t bytes = block.size(); bytes > 0;)
    if (::write(fd, block.data(), bytes) <= 0) bytes /= 2;
  const long leave = std::atol(part(g_settings.fault, "leave").c_str());
  static_cast<void>(!::ftruncate(fd, std::max(0L, ::lseek(fd, 0, SEEK_CUR) - leave)));
  ::close(fd);
}

// Counts the call; carries out what is to happen before it, or says how it ends.
Fault enter(const char* function, const std::string& path) {
  const std::lock_guard lock(g_mutex);
  const Settings& s = g_settings;
  if (!path.starts_with(s.under) || (!s.of.empty() && s.of != function)) return Fault::None;
  ++g_calls;
  if (!s.log.empty()) {
    const std::string line = std::to_string(g_calls) + " " + function + " " + path + "\n";
    const int fd = ::open(s.log.c_str(), O_CREAT | O_APPEND | O_WRONLY, 0666);
    static_cast<void>(!::write(fd, line.data(), line.size()));
    ::close(fd);
  }
  if (g_calls == s.early) s.early_what == "data" ? write_back() : commit_journal();
  if (g_calls == s.at && s.sticky) g_sticky = function;
  if (g_calls != s.at && g_sticky != function) return Fault::None;
  if (s.what == "kill") ::raise(SIGKILL);
  if (s.what.starts_with("cut")) cut_power();
  if (s.what == "fill" && g_calls == s.at) fill_disk();
  if (s.what == "slow") ::usleep(300'000);
  if (s.what == "short") return Fault::Short;
  if (const auto found = kSignals.find(s.what); found != kSignals.end()) ::raise(found->second);
  const auto found = kErrors.find(s.what);
  if (found == kErrors.end()) return Fault::None;
  errno = found->second;
  return Fault::Error;
}

std::string path_of(int fd) {
  const std::lock_guard lock(g_mutex);
  return fd >= 0 && fd < static_cast<int>(g_paths.size()) ? g_paths[static_cast<size_t>(fd)] : "";
}

int opened(int fd, const std::string& path) {
  const std::lock_guard lock(g_mutex);
  if (fd >= 0 && fd < static_cast<int>(g_paths.size())) g_paths[static_cast<size_t>(fd)] = path;
  return fd;
}

// For the writer without rename: a staged checkpoint's path is its final one.
std::string place(const char* path) {
  std::string p = path;
  if (g_settings.writer != "norename") return p;
  const size_t begin = p.find("/.checkpoint-"), mark = p.find(".tmp-", begin);
  if (begin == p.npos || mark == p.npos) return p;
  const size_t end = std::min(p.find('/', mark), p.size());
  return p.substr(0, begin + 1) + p.substr(begin + 2, mark - begin - 2) + p.substr(end);
}

void prune_early(const fs::path& staged) {
  if (g_settings.writer != "earlyprune" ||
      staged.filename().string().find("checkpoint-") == std::string::npos)
    return;
  for (const auto& entry : fs::directory_iterator(staged.parent_path()))
    if (entry.path().filename().string().starts_with("checkpoint-")) fs::remove_all(entry.path());
}

}  // namespace

namespace lema::sys {

int open(const char* path, int flags, mode_t mode) {
  const test::Uncounted own;
  const std::string p = place(path);
  if (enter((flags & O_CREAT) != 0 ? "create" : "open", p) == Fault::Error) return -1;
  return opened(::open(p.c_str(), flags, mode), p);
}

int close(int fd) {
  const test::Uncounted own;
  const Fault fault = enter("close", path_of(fd));
  const int code = errno;
  const int result = ::close(fd);
  if (fault != Fault::Error) return result;
  errno = code;
  return -1;
}

ssize_t pread(int fd, void* out, size_t bytes, off_t offset) {
  const test::Uncounted own;
  const Fault fault = enter("pread", path_of(fd));
  if (fault == Fault::Error) return -1;
  return ::pread(fd, out, fault == Fault::Short ? (bytes + 1) / 2 : bytes, offset);
}

ssize_t write(int fd, const void* data, size_t bytes) {
  const test::Uncounted own;
  const Fault fault = enter("write", path_of(fd));
  if (fault == Fault::Error) return -1;
  return ::write(fd, data, fault == Fault::Short ? (bytes + 1) / 2 : bytes);
}

int fsync(int fd) {
  const test::Uncounted own;
  struct ::stat st {};
  ::fstat(fd, &st);
  const std::string& writer = g_settings.writer;
  if (enter("fsync", path_of(fd)) == Fault::Error) return -1;
  if (writer == (S_ISDIR(st.st_mode) ? "nofoldersync" : "nofilesync")) return 0;
  return ::fsync(fd);
}

int fstat(int fd, struct stat* out) {
  const test::Uncounted own;
  return enter("fstat", path_of(fd)) == Fault::Error ? -1 : ::fstat(fd, out);
}

int stat(const char* path, struct stat* out) {
  const test::Uncounted own;
  return enter("stat", path) == Fault::Error ? -1 : ::stat(path, out);
}

int statvfs(const char* path, struct statvfs* out) {
  const test::Uncounted own;
  return enter("statvfs", path) == Fault::Error ? -1 : ::statvfs(path, out);
}

void* map(int fd, size_t bytes) {
  const test::Uncounted own;
  if (enter("map", path_of(fd)) == Fault::Error) return MAP_FAILED;
  return ::mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
}

int flock(int fd, int operation) {
  const test::Uncounted own;
  return enter("flock", path_of(fd)) == Fault::Error ? -1 : ::flock(fd, operation);
}

int rename(const char* from, const char* to) {
  const test::Uncounted own;
  return enter("rename", to) == Fault::Error ? -1 : ::rename(from, to);
}

int rename_new(const char* from, const char* to) {
  const test::Uncounted own;
  if (enter("rename_new", to) == Fault::Error) return -1;
  const std::string source = place(from);
  return source == to ? 0 : ::renameat2(AT_FDCWD, source.c_str(), AT_FDCWD, to, RENAME_NOREPLACE);
}

int exchange(const char* one, const char* other) {
  const test::Uncounted own;
  if (enter("exchange", other) == Fault::Error) return -1;
  return ::renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE);
}

int symlink(const char* target, const char* path) {
  const test::Uncounted own;
  return enter("symlink", path) == Fault::Error ? -1 : ::symlink(target, path);
}

int unlink(const char* path) {
  const test::Uncounted own;
  const std::string p = place(path);
  return enter("unlink", p) == Fault::Error ? -1 : ::unlink(p.c_str());
}

int mkdir(const char* path, mode_t mode) {
  const test::Uncounted own;
  const std::string p = place(path);
  if (enter("mkdir", p) == Fault::Error) return -1;
  prune_early(path);
  return ::mkdir(p.c_str(), mode);
}

int rmdir(const char* path) {
  const test::Uncounted own;
  const std::string p = place(path);
  return enter("rmdir", p) == Fault::Error ? -1 : ::rmdir(p.c_str());
}

DIR* fdopendir(int fd) {
  {
    const test::Uncounted own;
    if (enter("fdopendir", path_of(fd)) == Fault::Error) return nullptr;
  }
  return ::fdopendir(fd);
}

}  // namespace lema::sys
