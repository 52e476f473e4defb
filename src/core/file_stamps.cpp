// What stat says behind file_stamps.h. Called by RunInputs before data is read and by the run once
// it is hashed, and around the reading of a checkpoint.
#include "core/file_stamps.h"

#include <cerrno>

#include "core/error.h"
#include "core/file.h"
#include "core/system_calls.h"

namespace lema {

FileStamps::FileStamps(const std::vector<std::string>& paths) {
  for (const std::string& path : paths) stamps_.emplace_back(path, stamp_of(path));
}

FileStamps::Stamp FileStamps::stamp_of(const std::string& path) {
  struct stat st {};
  if (sys::stat(path.c_str(), &st) != 0) {
    if (errno != ENOENT && errno != ENOTDIR) io_failure("stat", path);
    return {};
  }
  return {static_cast<int64_t>(st.st_dev), static_cast<int64_t>(st.st_ino), st.st_size,
          int64_t{st.st_mtim.tv_sec} * 1'000'000'000 + st.st_mtim.tv_nsec};
}

void FileStamps::check_unchanged() const {
  for (const auto& [path, stamp] : stamps_)
    if (stamp_of(path) != stamp)
      fail(ErrorCode::BadInput, "{}: was changed while the run began", path);
}

}  // namespace lema
