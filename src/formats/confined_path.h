// Paths named by a model's own files, held inside the model's folder. Every reader of a downloaded
// folder opens its files through this.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "core/file.h"

namespace lema {

// `folder`/`name`, nullopt when nothing has that name. `name` is one relative path without "..",
// ".", empty parts, backslash or NUL; its folders are real folders, its file a regular file or the
// hub cache's own link (../../blobs/HEX from the folder's root). BadInput for everything else;
// `source` says who names the file.
std::optional<fs::path> confined_path(const fs::path& folder, std::string_view name,
                                      const std::string& source);

}  // namespace lema
