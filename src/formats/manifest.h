// The manifest that makes a checkpoint folder a checkpoint: written last, it names every other file
// with its size and checksum.
//
//   manifest.json = {"format": 1, "step": integer, "run_id": string,
//                    "files": {NAME: {"bytes": integer, "crc32c": "8 hex digits"}}}
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "core/file.h"

namespace lema {

inline constexpr const char* kManifestName = "manifest.json";

struct Manifest {
  struct Item {
    int64_t bytes = 0;
    uint32_t crc32c = 0;
  };
  int64_t step = 0;
  std::string run_id;
  std::map<std::string, Item> files;  // by name; a checkpoint has no folders inside
};

// Lists and sums the folder's files and writes manifest.json, synced; it must not be there. The
// caller has synced the files themselves. BadInput when the folder holds anything but regular
// files.
void write_manifest(const fs::path& folder, int64_t step, const std::string& run_id);

// BadInput when manifest.json is missing or malformed.
Manifest read_manifest(const fs::path& folder);

// Reads every file back. nullopt when the folder is sound, else the first reason it is not: no
// manifest, a file missing, of another size, of another checksum, or one too many. Io errors are
// thrown.
std::optional<std::string> verify_manifest(const fs::path& folder);

}  // namespace lema
