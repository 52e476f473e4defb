// Fuzzes checkpoint manifests, beside two files that the seeds describe.
#include "formats/manifest.h"

#include "core/hash.h"
#include "fuzz/fuzz_target.h"

using namespace lema;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fs::path folder = [] {
    const fs::path path = fuzz::folder().path() / "checkpoint-000001";
    fs::create_directories(path);
    write_file(path / "a", "123456789");
    write_file(path / "b", "");
    return path;
  }();
  fuzz::folder().file(fmt::format("checkpoint-000001/{}", kManifestName),
                      fuzz::text_of(data, size));
  Manifest manifest;
  const bool is_read = fuzz::accepts([&] { manifest = read_manifest(folder); });
  fuzz::accepts([&] {
    const std::optional<std::string> reason = verify_manifest(folder);
    if (reason) return;
    // A sound folder is described whole and right.
    fuzz::expect(is_read && manifest.files.size() == 2, "a manifest that leaves a file out");
    for (const char* name : {"a", "b"}) {
      const auto item = manifest.files.find(name);
      fuzz::expect(item != manifest.files.end(), "a file left out");
      fuzz::expect(item->second.bytes == File::open(folder / name).size(), "a wrong size");
      fuzz::expect(item->second.crc32c == crc32c_file(folder / name), "a wrong checksum");
    }
  });
  return 0;
}
