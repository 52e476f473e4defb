// Reading the side files of a model folder, with a digest of all that was read: what a cached data
// set was made with. Used by the loader of a folder's text and by the tokenizer readers.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/value.h"
#include "formats/confined_path.h"
#include "formats/json.h"

namespace lema {

class FolderReader {
 public:
  explicit FolderReader(const fs::path& folder) : folder_(folder) {}

  const fs::path& folder() const { return folder_; }
  // "FOLDER/NAME", for messages.
  std::string place(const std::string& name) const { return (folder_ / name).string(); }

  // The file, nullopt when absent. BadInput for a git-LFS pointer or an HTML page in its place.
  std::optional<std::string> text(const std::string& name,
                                  int64_t max_bytes = kTokenizerJsonLimits.max_bytes) {
    const auto path = confined_path(folder_, name, folder_.string());
    if (!path) return std::nullopt;
    std::string bytes = read_text(*path, max_bytes);
    refuse_stand_in(bytes, place(name));
    digest_ = sha256(digest_ + name + " " + sha256(bytes));
    return bytes;
  }
  std::optional<Value> json(const std::string& name) {
    const auto bytes = text(name);
    if (!bytes) return std::nullopt;
    return parse_json(*bytes, place(name), kTokenizerJsonLimits);
  }
  // The names in `subfolder` ("" for the folder itself) that end in `extension`, sorted.
  std::vector<std::string> names(const std::string& subfolder, const std::string& extension) const {
    std::vector<std::string> found;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(folder_ / subfolder, error))
      if (entry.path().extension() == extension) found.push_back(entry.path().filename().string());
    std::sort(found.begin(), found.end());
    return found;
  }
  // Of the names and bytes of all files read so far.
  const std::string& digest() const { return digest_; }

 private:
  // What is left in place of a file that was not downloaded.
  static void refuse_stand_in(std::string_view bytes, const std::string& place) {
    if (bytes.starts_with("version https://git-lfs"))
      fail(ErrorCode::BadInput,
           "{}: this is a git-LFS pointer; fetch the file itself (git lfs pull)", place);
    for (const std::string_view html : {"<!DOCTYPE html", "<!doctype html", "<html"})
      if (bytes.starts_with(html))
        fail(ErrorCode::BadInput, "{}: this is an HTML page; download the file itself", place);
  }

  fs::path folder_;
  std::string digest_;
};

}  // namespace lema
