// Folders: made, listed, removed, renamed and synced, written whole or not at all, and held by one
// process at a time. Errors: Io with path and the system's reason.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"

namespace lema {

// Of a path as written: "." where it names none.
fs::path parent_of(const fs::path& path);

// Whether something is there; a dangling symlink is not.
bool is_there(const fs::path& path);
// The folder and those above it, where they are missing.
void create_folders(const fs::path& folder);
// Names in a folder, sorted; none when there is no such folder.
std::vector<std::string> list_folder(const fs::path& folder);
// A file, or a symlink itself; nothing when there is none.
void remove_file(const fs::path& path);
// A file, or a folder with all that is in it; symlinks themselves.
void remove_tree(const fs::path& path);
// Makes the folder's entries durable (fsync of the folder).
void sync_folder(const fs::path& folder);
// Renames without replacing; Io when `to` exists.
void rename_new(const fs::path& from, const fs::path& to);
// A relative symlink to an entry of the same folder, in place of an older one, durable; none
// and a warning where the file system has no links.
void point_link(const fs::path& link, const std::string& target);

// Usage when the path is `input`, which is read, or lies inside it.
void check_outside(const fs::path& path, const fs::path& input);

// Io when fewer than `bytes` are free where `path` is or will be.
void check_free_space(const fs::path& path, int64_t bytes);

// A folder that is being written: created beside its final name, renamed into place by commit(),
// removed by the destructor when commit() was not reached. Each file in it is synced by who writes
// it. The temporary name says whose it is: ".NAME.tmp-PID-RANDOM"; its process holds a lock (flock)
// on it.
class StagedFolder {
 public:
  // Removes what dead processes left half-written of the same final name.
  // Usage error when `final_path` exists.
  // replaces: a folder of that name is there; commit() exchanges the two in one step, a usage error
  // where the file system cannot.
  explicit StagedFolder(fs::path final_path, bool replaces = false);
  StagedFolder(const StagedFolder&) = delete;
  ~StagedFolder();
  const fs::path& path() const { return staged_; }
  // Syncs the folder and those in it, renames, syncs the parent.
  void commit();

 private:
  StopDeferral deferral_;
  fs::path final_, staged_;
  int held_ = -1;
  bool replaces_, committed_ = false;
};

// NAME of the temporary name above, where the process is dead; nullopt of any other.
std::optional<std::string> abandoned_name(std::string_view name);
// remove_tree of what a dead process left half-written, said in the log.
void remove_leftover(const fs::path& path);

// A folder that this process alone writes to, by a lock (flock) on the file .lock in it, which says
// the process and the machine. The lock of a process that has died is no lock. Where the file
// system has none, the log says so.
class FolderLock {
 public:
  // Creates the folder where it is missing. Usage, naming the process, when another holds it.
  explicit FolderLock(const fs::path& folder);
  FolderLock(const FolderLock&) = delete;
  // Removes .lock, and the folder where this object made it and it is empty.
  ~FolderLock();

 private:
  fs::path folder_, path_;
  bool created_;
  File file_;  // closed where the file system has no locks
};

}  // namespace lema
