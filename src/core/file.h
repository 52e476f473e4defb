// The one seam to the file system: every open, read, write, sync and rename of lema is in file.cpp.
// Errors: Io with path and the system's reason; BadInput when a file that must exist is missing or
// too short.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace lema {

namespace fs = std::filesystem;

// An open descriptor of a regular file. Move-only; the destructor closes without throwing.
class File {
 public:
  // Existing regular file for reading; BadInput when missing or not a regular file.
  static File open(const fs::path& path);
  // The same open file past the page cache (O_DIRECT): reads need addresses, offsets and lengths of
  // whole kDiskBlocks. None where the file system cannot.
  std::optional<File> open_direct() const;
  // New file for writing, exclusive and never through a symlink; mode 0666 less the umask.
  static File create(const fs::path& path);
  // Existing or new file, writes go to its end.
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
  // To the disk (fsync). After a failure the file must be abandoned: a second try would lie.
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
  fs::path final_, staged_;
  bool committed_ = false;
};

// Whole file as text; BadInput when missing or larger than max_bytes.
std::string read_text(const fs::path& path, int64_t max_bytes);

// A whole file by way of a StagedFile.
void write_file(const fs::path& path, std::string_view bytes);

// Makes the folder's entries durable (fsync of the folder).
void sync_folder(const fs::path& folder);

// Renames without replacing; Io when `to` exists.
void rename_new(const fs::path& from, const fs::path& to);

// A folder that is being written: created beside its final name, renamed into place by commit(),
// removed by the destructor when commit() was not reached. The temporary name says whose it is:
// ".NAME.tmp-PID-RANDOM".
class StagedFolder {
 public:
  // Usage error when `final_path` exists.
  explicit StagedFolder(fs::path final_path);
  StagedFolder(const StagedFolder&) = delete;
  ~StagedFolder();
  const fs::path& path() const { return staged_; }
  // Syncs every file that is not yet synced by its writer, the folder, renames, syncs the parent.
  void commit();

 private:
  fs::path final_, staged_;
  bool committed_ = false;
};

}  // namespace lema
