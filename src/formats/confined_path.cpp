// Lexical and symlink checks of paths that a model folder's own files name.
#include "formats/confined_path.h"

#include <algorithm>
#include <vector>

#include "core/error.h"

namespace lema {
namespace {

bool is_hex(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

// The parts of a relative path inside the folder; empty for anything that could leave it or name
// one file twice.
std::vector<std::string> path_parts(std::string_view name) {
  std::vector<std::string> parts;
  // Control characters too: paths are printed.
  const auto is_refused = [](char c) { return c == '\\' || (c >= 0 && c < 0x20) || c == 0x7f; };
  if (std::any_of(name.begin(), name.end(), is_refused)) return {};
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('/', begin), name.size());
    const std::string_view part = name.substr(begin, end - begin);
    if (part.empty() || part == "." || part == "..") return {};
    parts.emplace_back(part);
    begin = end + 1;
  }
  return parts;
}

// `link` points as the hub cache's snapshots do: up to the repository (two levels above the
// snapshot's root), then blobs/HEX, itself a regular file.
bool is_hub_blob_link(const fs::path& link, size_t depth) {
  std::string up;
  for (size_t i = 0; i < depth + 1; ++i) up += "../";
  const std::string target = fs::read_symlink(link).string();
  const std::string front = up + "blobs/";
  return target.starts_with(front) && is_hex(std::string_view(target).substr(front.size())) &&
         fs::symlink_status(link.parent_path() / target).type() == fs::file_type::regular;
}

}  // namespace

std::optional<fs::path> confined_path(const fs::path& folder, std::string_view name,
                                      const std::string& source) {
  const std::vector<std::string> parts = path_parts(name);
  if (parts.empty())
    fail(ErrorCode::BadInput, "{}: \"{}\" is not a plain relative path inside the model folder",
         source, escaped(name));
  fs::path path = folder;
  for (size_t i = 0; i < parts.size(); ++i) {
    path /= parts[i];
    std::error_code error;
    const fs::file_type type = fs::symlink_status(path, error).type();
    if (type == fs::file_type::none)
      fail(ErrorCode::BadInput, "{}: {}: {}", source, escaped(path.string()), error.message());
    const bool last = i + 1 == parts.size();
    if (type == fs::file_type::not_found) return std::nullopt;
    if (type == (last ? fs::file_type::regular : fs::file_type::directory)) continue;
    if (last && type == fs::file_type::symlink && is_hub_blob_link(path, parts.size())) continue;
    if (type == fs::file_type::symlink)
      fail(ErrorCode::BadInput,
           "{}: symbolic link to {}; only the hub cache's links to ../../blobs/HEX are followed",
           escaped(path.string()), escaped(fs::read_symlink(path, error).string()));
    fail(ErrorCode::BadInput, "{}: not a {}", escaped(path.string()),
         last ? "regular file" : "folder");
  }
  return path;
}

}  // namespace lema
