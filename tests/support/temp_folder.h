// A folder for one test case.
#pragma once

#include <unistd.h>

#include <string>
#include <string_view>

#include "core/file.h"
#include "support/message_of.h"

namespace lema {

// Made empty, removed with everything in it.
class TempFolder {
 public:
  explicit TempFolder(std::string_view name)
      : path_(fs::temp_directory_path() / fmt::format("lema_{}_{}", name, ::getpid())) {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  TempFolder(const TempFolder&) = delete;
  ~TempFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }
  // Writes a file, making the folders above it.
  fs::path file(std::string_view name, std::string_view bytes) const {
    fs::create_directories((path_ / name).parent_path());
    write_file(path_ / name, bytes);
    return path_ / name;
  }

 private:
  fs::path path_;
};

}  // namespace lema
