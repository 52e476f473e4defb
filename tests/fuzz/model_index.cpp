// Fuzzes model.safetensors.index.json and the paths it names, in a folder that holds two shards, a
// folder, a pipe's name and links that lead out of it.
#include <sys/stat.h>

#include "formats/hf_model.h"
#include "fuzz/fuzz_target.h"
#include "support/write_shard.h"

using namespace lema;

namespace {

const fs::path& model_folder() {
  static const fs::path path = [] {
    const fs::path root = fuzz::folder().path(), model = root / "model";
    fs::create_directories(model / "sub");
    fs::create_directories(model / "d");
    write_file(model / "config.json", R"({"model_type": "llama"})");
    test::write_shard(model / "a", {"x", "y"});
    test::write_shard(model / "sub/b", {"z"});
    test::write_shard(root / "secret", {"x"});
    fs::create_symlink("../secret", model / "l");
    fs::create_directory_symlink("..", model / "up");
    ::mkfifo((model / "p").c_str(), 0600);
    return model;
  }();
  return path;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const fs::path& folder = model_folder();
  fuzz::folder().file("model/model.safetensors.index.json", fuzz::text_of(data, size));
  fuzz::accepts([&] {
    const ModelFolder model(folder);
    fuzz::expect(!model.files().empty(), "a model without files");
    for (const SafetensorsFile& file : model.files()) {
      const fs::path real = fs::canonical(file.file().path());
      fuzz::expect(real == folder / "a" || real == folder / "sub/b", "a file out of the folder");
      for (const TensorEntry& t : file.tensors())
        fuzz::expect(model.find(t.name) != nullptr, "a tensor that is lost");
    }
  });
  return 0;
}
