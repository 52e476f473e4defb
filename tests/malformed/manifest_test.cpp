// Malformed checkpoint manifests, beside the files that they speak of. Checkpoints whose other
// files are malformed are tests/fault/malformed_checkpoint_test.py's.
#include "formats/manifest.h"

#include "support/malformed.h"
#include "support/temp_folder.h"

using namespace lema;

namespace {

const std::string kA = R"("a":{"bytes":9,"crc32c":"e3069283"})";

std::string manifest(std::string_view files) {
  return fmt::format(R"({{"format":1,"step":1,"run_id":"r","files":{{{}}}}})", files);
}
std::string with(std::string_view member, std::string_view value) {
  std::string text = "{";
  for (const auto& [key, usual] : {std::pair<std::string, std::string>{"format", "1"},
                                   {"step", "1"},
                                   {"run_id", "\"r\""},
                                   {"files", "{" + kA + "}"}})
    if (key != member) text += fmt::format("\"{}\":{},", key, usual);
  return text + fmt::format("\"{}\":{}}}", member, value);
}

}  // namespace

TEST_CASE("manifests that are malformed or lie") {
  const TempFolder folder("malformed_manifest");
  folder.file("a", "123456789");
  const auto check_folder = [&](const std::string& bytes) {
    folder.file(kManifestName, bytes);
    if (const auto reason = verify_manifest(folder.path()))
      fail(ErrorCode::BadInput, "{}", *reason);
  };
  CHECK_NOTHROW(check_folder(manifest(kA)));
  std::vector<Malformed> cases;
  for (const char* value :
       {"0", "2", "-1", "1.0", "\"1\"", "null", "true", "[]", "9223372036854775807"})
    cases.push_back({std::string("the format ") + value, with("format", value), "manifest.json"});
  for (const char* value : {"-1", "1.5", "\"1\"", "null", "{}", "-9223372036854775808"})
    cases.push_back({std::string("the step ") + value, with("step", value), "manifest.json"});
  for (const char* value : {"1", "null", "[]", "{}"})
    cases.push_back({std::string("the run ") + value, with("run_id", value), "manifest.json"});
  for (const char* value : {"null", "[]", "[\"a\"]", "\"a\"", "3"})
    cases.push_back({std::string("the files ") + value, with("files", value), "manifest.json"});
  for (const char* name :
       {"", ".", "..", "../a", "/etc/passwd", "a/b", "./a", "a/", "\\u0000", "a\\u0000"})
    cases.push_back({std::string("the name ") + name,
                     manifest(fmt::format(R"("{}":{{"bytes":9,"crc32c":"e3069283"}})", name)),
                     "is not a file name"});
  for (const char* bytes :
       {"-1", "-9223372036854775808", "10", "0", "9223372036854775807", "9.0", "\"9\"", "null"})
    cases.push_back({std::string("a size of ") + bytes,
                     manifest(fmt::format(R"("a":{{"bytes":{},"crc32c":"e3069283"}})", bytes)),
                     "a"});
  const auto checksum = [&](const char* crc, std::string_view part) {
    cases.push_back({std::string("a checksum of ") + crc,
                     manifest(fmt::format(R"("a":{{"bytes":9,"crc32c":"{}"}})", crc)),
                     std::string(part)});
  };
  for (const char* crc : {"", "0", "e306928", "3069283", "e30692833", "E306928g", "-3069283",
                          "+3069283", "0xe30692", " e306928", "\\u001b[2J"})
    checksum(crc, "is not 8 hex digits");
  for (const char* crc : {"e3069284", "00000000"}) checksum(crc, "a has checksum e3069283");
  const Malformed more[] = {
      {"a checksum that is a number", manifest(R"("a":{"bytes":9,"crc32c":3808858755})"),
       "manifest.json"},
      {"no checksum", manifest(R"("a":{"bytes":9})"), "no key \"crc32c\""},
      {"no size", manifest(R"("a":{"crc32c":"e3069283"})"), "no key \"bytes\""},
      {"an entry that is a list", manifest(R"("a":[9,"e3069283"])"),
       "found array, expected an object"},
      {"an entry that is null", manifest(R"("a":null)"), "found null, expected an object"},
      {"a file twice", manifest(kA + "," + kA), "duplicate key \"a\""},
      {"no files", manifest(""), "a is not in the manifest"},
      {"a file too many", manifest(kA + R"(,"b":{"bytes":0,"crc32c":"00000000"})"), "b is missing"},
      {"itself", manifest(kA + R"(,"manifest.json":{"bytes":0,"crc32c":"00000000"})"),
       "manifest.json is missing"},
      {"a terminal escape", manifest(kA + R"(,"\u001b[2J":{"bytes":0,"crc32c":"00000000"})"),
       "\\x1b[2J is missing"},
      {"a name of 900,000",
       manifest(kA + ",\"" + repeat("n", 900'000) + R"(":{"bytes":0,"crc32c":"00000000"})"),
       "is missing"},
      {"nothing", "", "manifest.json:1:1: "},
      {"zeros", std::string(300, '\0'), "NUL byte"},
      {"blanks", std::string(300, ' '), "manifest.json:1:"},
      {"a list", "[]", "found array, expected an object"},
      {"a byte order mark", "\xef\xbb\xbf" + manifest(kA), "byte order mark"},
      {"two of them", manifest(kA) + manifest(kA), "manifest.json:1:"},
      {"2 MB", manifest(kA) + std::string(2 << 20, ' '), "manifest.json"},
      {"a million brackets", repeat("[", 1'000'000), "deeper than 64"},
      {"cut in the middle", manifest(kA).substr(0, 50), "manifest.json:1:"},
  };
  cases.insert(cases.end(), std::begin(more), std::end(more));
  expect_refused(cases, "malformed_manifest", check_folder);
}
