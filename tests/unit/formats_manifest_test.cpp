// Checkpoint manifests: a sound folder verifies; any change to it is noticed and named.
#include <unistd.h>

#include "core/error.h"
#include "formats/manifest.h"
#include "support/catch.h"

using namespace lema;

namespace {

// A checkpoint-like folder with its manifest, removed at the end.
struct Checkpoint {
  Checkpoint() : path(fs::temp_directory_path() / fmt::format("lema_manifest_{}", ::getpid())) {
    fs::remove_all(path);
    fs::create_directories(path);
    write_file(path / "adapter.bin", "123456789");
    write_file(path / "empty", "");
    write_manifest(path, 500, "run-1");
  }
  ~Checkpoint() { fs::remove_all(path); }

  std::string reason() const { return verify_manifest(path).value_or("sound"); }
  void expect(std::string_view text) const {
    INFO(reason());
    CHECK(reason().find(text) != std::string::npos);
  }
  fs::path path;
};

}  // namespace

TEST_CASE("a manifest lists step, run and every file") {
  const Checkpoint c;
  CHECK(c.reason() == "sound");
  const Manifest m = read_manifest(c.path);
  CHECK(m.step == 500);
  CHECK(m.run_id == "run-1");
  REQUIRE(m.files.size() == 2);
  CHECK(m.files.at("adapter.bin").bytes == 9);
  CHECK(m.files.at("adapter.bin").crc32c == 0xE3069283u);
  CHECK(m.files.at("empty").crc32c == 0);
  CHECK_THROWS_AS(write_manifest(c.path, 501, "run-1"), Error);
  fs::remove(c.path / kManifestName);
  write_manifest(c.path, 501, "run-1");
  CHECK(read_manifest(c.path).step == 501);
}

TEST_CASE("any change to the folder is noticed") {
  const Checkpoint c;
  SECTION("one bit of a file") {
    write_file(c.path / "adapter.bin", "123456788");
    c.expect("adapter.bin has checksum");
  }
  SECTION("shorter file") {
    write_file(c.path / "adapter.bin", "12345678");
    c.expect("adapter.bin has 8 bytes, the manifest says 9");
  }
  SECTION("longer file") {
    write_file(c.path / "empty", "x");
    c.expect("empty has 1 bytes, the manifest says 0");
  }
  SECTION("missing file") {
    fs::remove(c.path / "empty");
    c.expect("empty is missing");
  }
  SECTION("file too many") {
    write_file(c.path / "extra", "x");
    c.expect("extra is not in the manifest");
  }
  SECTION("folder inside") {
    fs::create_directory(c.path / "sub");
    c.expect("sub is not a regular file");
  }
  SECTION("symbolic link in place of a file") {
    fs::rename(c.path / "empty", c.path.string() + "_moved");
    fs::create_symlink(c.path.string() + "_moved", c.path / "empty");
    c.expect("empty is not a regular file");
    fs::remove(c.path.string() + "_moved");
  }
  SECTION("no manifest") {
    fs::remove(c.path / kManifestName);
    c.expect("manifest.json: no such file");
  }
  SECTION("no folder") {
    fs::remove_all(c.path);
    c.expect("no such file");
  }
}

TEST_CASE("malformed manifests are refused by name") {
  const Checkpoint c;
  const std::string good = read_text(c.path / kManifestName, 1 << 20);
  for (size_t n = 0; n + 2 < good.size(); ++n) {  // cut short; only the final newline may go
    write_file(c.path / kManifestName, good.substr(0, n));
    CHECK(c.reason() != "sound");
  }
  const std::pair<std::string, std::string> cases[] = {
      {"", "manifest.json:1:1: "},
      {"{}", "manifest.json: no key \"format\""},
      {"[]", "manifest.json: found array, expected an object"},
      {R"({"format": 2, "step": 1, "run_id": "", "files": {}})", "format 2, this lema reads 1"},
      {R"({"format": 1, "step": "1", "run_id": "", "files": {}})",
       "found string, expected integer"},
      {R"({"format": 1, "step": 1, "run_id": "", "files": []})", "found array, expected object"},
      {R"({"format": 1, "step": 1, "run_id": "", )"
       R"("files": {"../x": {"bytes": 1, "crc32c": "00000000"}}})",
       "\"../x\" is not a file name"},
      {R"({"format": 1, "step": 1, "run_id": "", )"
       R"("files": {"x": {"bytes": 1, "crc32c": "0000000"}}})",
       "x: crc32c \"0000000\" is not 8 hex digits"},
      {R"({"format": 1, "step": 1, "run_id": "", )"
       R"("files": {"x": {"bytes": 1, "crc32c": "0000000g"}}})",
       "8 hex digits"},
      {R"({"format": 1, "step": 1, "run_id": "", "files": {"x": {"bytes": 1}}})",
       "x: no key \"crc32c\""},
      {R"({"format": 1, "step": 1, "run_id": "", "files": {"x": 1}})",
       "x: found integer, expected an object"},
      {R"({"format": 1, "format": 1})", "duplicate key"},
  };
  for (const auto& [text, expected] : cases) {
    write_file(c.path / kManifestName, text);
    c.expect(expected);
    CHECK_THROWS_AS(read_manifest(c.path), Error);
  }
}
