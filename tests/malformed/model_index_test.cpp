// Shard indexes and the paths that they name: nothing outside the model folder is opened.
#include <sys/stat.h>

#include "formats/confined_path.h"
#include "formats/hf_model.h"
#include "support/malformed.h"
#include "support/temp_folder.h"
#include "support/write_shard.h"

using namespace lema;

namespace {

// A model folder as the hub's cache has it, with shards "a" (x, y), "sub/b" (z) and the link "blob"
// (x), and all that may not be opened.
class Model {
 public:
  Model() : outer_("malformed_index"), folder_(outer_.path() / "snapshots/model") {
    fs::create_directories(folder_ / "sub");
    fs::create_directories(folder_ / "d");
    outer_.file("snapshots/model/config.json", R"({"model_type": "llama"})");
    test::write_shard(folder_ / "a", {"x", "y"});
    test::write_shard(folder_ / "sub/b", {"z"});
    test::write_shard(outer_.path() / "secret", {"x", "y"});
    test::write_shard(outer_.path() / "snapshots/secret", {"x", "y"});
    fs::create_directories(outer_.path() / "blobs");
    for (const char* blob : {"00ff", "00FF"})
      test::write_shard(outer_.path() / "blobs" / blob, {"x"});
    fs::create_symlink("../../blobs/00ff", folder_ / "blob");
    fs::create_symlink("../secret", folder_ / "link_out");
    fs::create_symlink(outer_.path() / "secret", folder_ / "link_absolute");
    fs::create_symlink("a", folder_ / "link_in");
    fs::create_symlink("gone", folder_ / "link_gone");
    fs::create_symlink("loop", folder_ / "loop");
    fs::create_symlink("/dev/zero", folder_ / "link_device");
    fs::create_symlink("/proc/self/environ", folder_ / "link_proc");
    fs::create_symlink("../blobs/00ff", folder_ / "blob_of_another_depth");
    fs::create_symlink("../../blobs/00FF", folder_ / "blob_not_hex");
    fs::create_symlink("../../blobs/../secret", folder_ / "blob_out");
    fs::create_directory_symlink("..", folder_ / "up");
    fs::create_directory_symlink("sub", folder_ / "sub_link");
    ::mkfifo((folder_ / "pipe").c_str(), 0600);
  }
  void open(const std::string& index) const {
    outer_.file("snapshots/model/model.safetensors.index.json", index);
    ModelFolder{folder_};
  }
  fs::path outside(const char* name) const { return outer_.path() / name; }

 private:
  TempFolder outer_;
  fs::path folder_;
};

std::string index_of(std::string_view file) {
  return fmt::format(R"({{"weight_map":{{"x":"{}"}}}})", file);
}

}  // namespace

TEST_CASE("paths that lead out of the model folder, or could") {
  const Model model;
  std::vector<Malformed> cases;
  for (
      const char* path :
      {"../secret", "../../secret",  "sub/../../secret", "sub/../a",    "./a",      "a/.",     "a/",
       "/",         "//a",           "/etc/passwd",      "/dev/zero",   "sub//b",   ".",       "..",
       "...//..",   "a\\\\..\\\\..", "..\\\\secret",     "C:\\\\x",     "a\\u0000", "\\u0000", "",
       "sub/./b",   "sub/b/..",      "..%2fsecret/../a", "a\\u001b[2J", "a\\nb",    "\\u007f"})
    cases.push_back({std::string("the path ") + path, index_of(path), "not a plain relative path"});
  cases.push_back({"an absolute path", index_of(model.outside("secret").string()),
                   "not a plain relative path"});
  expect_refused(cases, "model.safetensors.index.json",
                 [&](const std::string& index) { model.open(index); });
}

TEST_CASE("names in the model folder that are no shards") {
  const Model model;
  CHECK_NOTHROW(model.open(index_of("blob")));
  std::vector<Malformed> cases;
  for (const char* path :
       {"link_out", "link_absolute", "link_in", "link_gone", "loop", "link_device", "link_proc",
        "blob_of_another_depth", "blob_not_hex", "blob_out"})
    cases.push_back({path, index_of(path), "symbolic link to"});
  for (const char* path : {"up/secret", "up/model/a", "sub_link/b", "up/up/model/a"})
    cases.push_back({path, index_of(path), "symbolic link to"});
  cases.push_back({"a folder", index_of("d"), "not a regular file"});
  cases.push_back({"a pipe", index_of("pipe"), "not a regular file"});
  cases.push_back({"a file as folder", index_of("a/b"), "not a folder"});
  cases.push_back({"no file", index_of("gone"), "shard gone is missing"});
  cases.push_back({"a name of 300", index_of(repeat("n", 300)), "File name too long"});
  cases.push_back({"a path of 1 MB", index_of(repeat("n/", 1 << 19) + "n"), ""});
  cases.push_back({"the config", index_of("config.json"), "config.json: "});
  expect_refused(cases, "model", [&](const std::string& index) { model.open(index); });
}

TEST_CASE("indexes that contradict their shards or are none") {
  const Model model;
  const std::string good = R"("x":"a","y":"a","z":"sub/b")";
  CHECK_NOTHROW(model.open("{\"weight_map\":{" + good + "}}"));
  const auto total = [&](const std::string& size) {
    return "{\"metadata\":{\"total_size\":" + size + "},\"weight_map\":{" + good + "}}";
  };
  const std::vector<Malformed> cases = {
      {"a tensor too few", R"({"weight_map":{"x":"a"}})", "tensor y is not listed"},
      {"a tensor too many", R"({"weight_map":{"x":"a","y":"a","w":"a"}})", "no tensor w"},
      {"a tensor in the other shard", R"({"weight_map":{"x":"a","y":"sub/b","z":"sub/b"}})",
       "tensor y"},
      {"a tensor named twice", R"({"weight_map":{"x":"a","x":"sub/b"}})", "duplicate key \"x\""},
      {"a terminal escape as tensor", R"({"weight_map":{"x":"a","y":"a","\u001b[2J":"a"}})",
       "no tensor \\x1b[2J"},
      {"another total", total("25"), "total_size is 25, the shards hold 24"},
      {"a negative total", total("-24"), "total_size: found -24"},
      {"a total of 2^63 - 1", total("9223372036854775807"), "total_size is 9223372036854775807"},
      {"a fractional total", total("24.0"), "total_size: found number, expected integer"},
      {"a total as text", total("\"24\""), "total_size: found string, expected integer"},
      {"metadata that is a list", R"({"metadata":[],"weight_map":{"x":"a"}})",
       "found array, expected an object"},
      {"no map", "{}", "no key \"weight_map\""},
      {"an empty map", R"({"weight_map":{}})", "weight_map is empty"},
      {"a map that is null", R"({"weight_map":null})", "no key \"weight_map\""},
      {"a map that is a list", R"({"weight_map":["a"]})", "found array, expected object"},
      {"a map that is a path", R"({"weight_map":"../secret"})", "found string, expected object"},
      {"a list as path", R"({"weight_map":{"x":["a"]}})", "found array, expected a file name"},
      {"null as path", R"({"weight_map":{"x":null}})", "found null, expected a file name"},
      {"a list", "[]", "found array, expected an object"},
      {"nothing", "", "unexpected end of input"},
      {"an index that ends early", R"({"weight_map":{"x":"a)", "index.json:1:"},
      {"a web page", "<html>", "index.json:1:1: "},
  };
  expect_refused(cases, "model", [&](const std::string& index) { model.open(index); });
}

TEST_CASE("the index itself may be no way out") {
  const TempFolder folder("malformed_index_link");
  folder.file("model/config.json", R"({"model_type": "llama"})");
  folder.file("index.json", R"({"weight_map":{"x":"a"}})");
  fs::create_symlink("../index.json", folder.path() / "model/model.safetensors.index.json");
  CHECK_BAD_INPUT(ModelFolder{folder.path() / "model"}, "symbolic link to ../index.json");
  for (const char* name : {"../index.json", "/etc/passwd", "", "a\x1b[2J"})
    CHECK_BAD_INPUT(confined_path(folder.path() / "model", name, "s"), "not a plain relative path");
}
