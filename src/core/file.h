// Files: every one that lema opens, reads and writes. Folders are core/folder.h; both stand on the
// seam of core/system_calls.h. Errors: Io with path and the system's reason; BadInput when a file
// that must exist is missing or too short.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/signals.h"

namespace lema {

namespace fs = std::filesystem;

// An open descriptor of a regular file. Move-only; the destructor closes without throwing.
class File {
 public:
  // Existing regular file for reading; BadInput when missing or not a regular file.
  static File open(const fs::path& path);
  // The same open file past the page cache (O_DIRECT): reads need addresses, offsets and lengths of
  // whole kDiskBlocks. None where the file system cannot, by its answer to a first one.
  std::optional<File> open_direct() const;
  // New file for writing, exclusive and never through a symlink; mode 0666 less the umask.
  static File create(const fs::path& path);
  // Existing or new file, writes go to its end. Io where the path is a link, which may lead out of a
  // run's folder, or no regular file, which may never open.
  static File append(const fs::path& path);

  File() = default;
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  File(const File&) = delete;
  ~File();

  const fs::path& path() const { return path_; }
  int64_t size() const;
  // Reads exactly `bytes` at `offset`; BadInput when the file ends before. Threads: concurrent.
  void read_at(void* out, int64_t bytes, int64_t offset) const;
  // Reads `bytes`, or up to the end of the file; returns how many. Errors of the medium are tried
  // again for a moment, then Io. Threads: concurrent.
  int64_t read_up_to(void* out, int64_t bytes, int64_t offset) const;
  // Starts to read into the page cache; a hint.
  void will_read(int64_t bytes, int64_t offset) const;
  // Has the page cache forget the range; a hint, pages in use stay.
  void forget_cached(int64_t bytes, int64_t offset) const;
  // BadInput when the file was written to or cut since it was opened.
  void check_unchanged() const;
  // Appends all of it. Threads: one.
  void write(const void* data, int64_t bytes);
  // To the disk (fsync). After a failure the file must be abandoned: the kernel counts its pages as
  // written, and a second try would lie. Ref: doi.org/10.5555/3489146.3489197.
  void sync();
  // Closes and reports errors, which the destructor cannot.
  void close();
  int descriptor() const { return fd_; }

 private:
  File(int fd, fs::path path) : fd_(fd), path_(std::move(path)) {}
  int fd_ = -1;
  fs::path path_;
  int64_t opened_size_ = 0, opened_mtime_ns_ = 0;  // by open()
};

// What reads past the page cache are aligned to: the largest logical block of common disks.
inline constexpr int64_t kDiskBlock = 4096;

// A file that is being written beside its final name: moved there by commit(), replacing what was
// there, removed by the destructor when commit() was not reached. Readers see the old or the new
// file, never a part. The temporary name says whose it is: ".NAME.tmp-PID-RANDOM".
class StagedFile {
 public:
  explicit StagedFile(fs::path final_path);
  StagedFile(const StagedFile&) = delete;
  ~StagedFile();
  const fs::path& path() const { return staged_; }  // for the caller to create, sync and close
  // Renames and syncs the folder.
  void commit();

 private:
  StopDeferral deferral_;
  fs::path final_, staged_;
  bool committed_ = false;
};

// Whole file as text; BadInput when missing or larger than max_bytes.
std::string read_text(const fs::path& path, int64_t max_bytes);

// A whole file by way of a StagedFile.
void write_file(const fs::path& path, std::string_view bytes);
// A whole file that does not exist, in a StagedFolder: synced, under its own name.
void write_new_file(const fs::path& path, std::string_view bytes);

// The temporary name beside `path` that this process writes to.
fs::path temporary_name(const fs::path& path);
// Io, "PATH: cannot ACTION: " and errno's text; DoesNotFit where the system had no memory for it.
[[noreturn]] void io_failure(std::string_view action, const fs::path& path);

}  // namespace lema
