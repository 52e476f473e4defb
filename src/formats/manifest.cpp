// Writing, reading and verifying checkpoint manifests. Saving writes one as its last file, resume
// trusts only folders whose manifest verifies.
#include "formats/manifest.h"

#include <charconv>
#include <limits>

#include "core/error.h"
#include "core/folder.h"
#include "core/hash.h"
#include "formats/json.h"
#include "formats/json_fields.h"

namespace lema {
namespace {

constexpr int64_t kFormat = 1;
constexpr int64_t kMaxManifestBytes = int64_t{1} << 20;
constexpr int64_t kMost = std::numeric_limits<int64_t>::max();

// Sizes of all files of the folder but the manifest.
std::map<std::string, int64_t> list_files(const fs::path& folder) {
  std::map<std::string, int64_t> files;
  for (const std::string& name : list_folder(folder)) {
    if (name == kManifestName) continue;
    const fs::file_type type = fs::symlink_status(folder / name).type();
    if (type != fs::file_type::regular && type != fs::file_type::not_found)
      fail(ErrorCode::BadInput, "{}: {} is not a regular file", folder.string(), escaped(name));
    files[name] = File::open(folder / name).size();
  }
  return files;
}

Manifest::Item parse_item(const Value& value, const std::string& place) {
  const JsonFields fields(value, place);
  Manifest::Item item;
  item.bytes = fields.required_integer("bytes", 0, kMost);
  const std::string& hex = fields.required_text("crc32c");
  const auto [end, error] = std::from_chars(hex.data(), hex.data() + hex.size(), item.crc32c, 16);
  if (error != std::errc() || end != hex.data() + hex.size() || hex.size() != 8)
    fail(ErrorCode::BadInput, "{}: crc32c \"{}\" is not 8 hex digits", place, escaped(hex));
  return item;
}

}  // namespace

void write_manifest(const fs::path& folder, int64_t step, const std::string& run_id) {
  Value files = Value::Object{};
  for (const auto& [name, bytes] : list_files(folder)) {
    const std::string crc = fmt::format("{:08x}", crc32c_file(folder / name));
    files.set(name, Value::Object{{"bytes", bytes}, {"crc32c", crc}});
  }
  const Value root =
      Value::Object{{"format", kFormat}, {"step", step}, {"run_id", run_id}, {"files", files}};
  write_new_file(folder / kManifestName, dump_json(root, 2) + "\n");
}

Manifest read_manifest(const fs::path& folder) {
  const std::string place = (folder / kManifestName).string();
  const Value root = parse_json(read_text(folder / kManifestName, kMaxManifestBytes), place);
  const JsonFields fields(root, place);
  if (const int64_t format = fields.required_integer("format", -kMost, kMost); format != kFormat)
    fail(ErrorCode::BadInput, "{}: format {}, this lema reads {}", place, format, kFormat);
  Manifest manifest;
  manifest.step = fields.required_integer("step", 0, kMost);
  manifest.run_id = fields.required_text("run_id");
  const Value& files = fields.required("files");
  if (!files.is_object()) fields.wrong("files", files, "object");
  for (const auto& [name, item] : files.as_object()) {
    if (name.empty() || name == "." || name == ".." || name.find('/') != name.npos ||
        name.find('\0') != name.npos)
      fail(ErrorCode::BadInput, "{}: \"{}\" is not a file name", place, escaped(name));
    manifest.files[name] = parse_item(item, place + ": " + escaped(name));
  }
  return manifest;
}

std::optional<std::string> verify_manifest(const fs::path& folder) {
  try {
    const Manifest manifest = read_manifest(folder);
    std::map<std::string, int64_t> present = list_files(folder);
    for (const auto& [name, item] : manifest.files) {
      const auto it = present.find(name);
      if (it == present.end())
        return fmt::format("{}: {} is missing", folder.string(), escaped(name));
      if (it->second != item.bytes)
        return fmt::format("{}: {} has {} bytes, the manifest says {}", folder.string(),
                           escaped(name), it->second, item.bytes);
      const uint32_t crc = crc32c_file(folder / name);
      if (crc != item.crc32c)
        return fmt::format("{}: {} has checksum {:08x}, the manifest says {:08x}", folder.string(),
                           escaped(name), crc, item.crc32c);
      present.erase(it);
    }
    if (!present.empty())
      return fmt::format("{}: {} is not in the manifest", folder.string(),
                         escaped(present.begin()->first));
    return std::nullopt;
  } catch (const Error& e) {
    if (e.code() != ErrorCode::BadInput) throw;
    return e.what();
  }
}

}  // namespace lema
