// The system calls of the file system, one function each, with the kernel's own contract: -1 and
// errno. core/file.cpp and core/folder.cpp are their callers. tests/fault links other definitions
// (failing_system_calls.cpp), which fail, lie, kill or cut the power at a chosen call; nothing in
// the shipped binary knows of them.
#pragma once

#include <dirent.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>

namespace lema::sys {

int open(const char* path, int flags, mode_t mode = 0);
int close(int fd);
ssize_t pread(int fd, void* out, size_t bytes, off_t offset);
ssize_t write(int fd, const void* data, size_t bytes);
int fsync(int fd);
int fstat(int fd, struct stat* out);
// By path, symlinks followed.
int stat(const char* path, struct stat* out);
int statvfs(const char* path, struct statvfs* out);
// Private, read-only; MAP_FAILED.
void* map(int fd, size_t bytes);
int flock(int fd, int operation);
int rename(const char* from, const char* to);
// renameat2 with RENAME_NOREPLACE.
int rename_new(const char* from, const char* to);
// renameat2 with RENAME_EXCHANGE.
int exchange(const char* one, const char* other);
int symlink(const char* target, const char* path);
int unlink(const char* path);
int mkdir(const char* path, mode_t mode);
int rmdir(const char* path);
// Of a folder's descriptor, which it takes over; null on failure.
DIR* fdopendir(int fd);

}  // namespace lema::sys
