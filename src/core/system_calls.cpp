// The system calls themselves. The shipped binary's side of the seam in system_calls.h.
#include "core/system_calls.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>

namespace lema::sys {

int open(const char* path, int flags, mode_t mode) { return ::open(path, flags, mode); }
int close(int fd) { return ::close(fd); }
ssize_t pread(int fd, void* out, size_t bytes, off_t offset) {
  return ::pread(fd, out, bytes, offset);
}
ssize_t write(int fd, const void* data, size_t bytes) { return ::write(fd, data, bytes); }
int fsync(int fd) { return ::fsync(fd); }
int fstat(int fd, struct stat* out) { return ::fstat(fd, out); }
int stat(const char* path, struct stat* out) { return ::stat(path, out); }
int statvfs(const char* path, struct statvfs* out) { return ::statvfs(path, out); }
void* map(int fd, size_t bytes) {
  return ::mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
}
int flock(int fd, int operation) { return ::flock(fd, operation); }
int rename(const char* from, const char* to) { return ::rename(from, to); }
int rename_new(const char* from, const char* to) {
  return ::renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE);
}
int exchange(const char* one, const char* other) {
  return ::renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE);
}
int symlink(const char* target, const char* path) { return ::symlink(target, path); }
int unlink(const char* path) { return ::unlink(path); }
int mkdir(const char* path, mode_t mode) { return ::mkdir(path, mode); }
int rmdir(const char* path) { return ::rmdir(path); }
DIR* fdopendir(int fd) { return ::fdopendir(fd); }

}  // namespace lema::sys
