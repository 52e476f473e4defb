// The cache of tokenised data sets: what is read is what was written, a damaged file is never used,
// and the key changes with everything that changes a row.
#include <functional>
#include <string>
#include <vector>

#include "core/file.h"
#include "data/dataset_cache.h"
#include "support/catch.h"
#include "support/temp_folder.h"
#include "support/tiny_text.h"

using namespace lema;
using namespace lema::testing;

namespace {

constexpr std::string_view kRows =
    "{\"messages\":[{\"role\":\"user\",\"content\":\"hello\"},{\"role\":\"assistant\","
    "\"content\":\"he\"}]}\n\n"
    "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\",\"content\":"
    "\"hello world\"}]}\n";

ModelText text_of(const std::string& digest, const std::string& chat_template = "") {
  TextSources sources = tiny_sources();
  sources.digest = digest;
  return ModelText(sources, chat_template);
}

// A written cache of kRows.
struct Cached {
  TempFolder folder{"dataset_cache"};
  std::vector<std::string> paths{folder.file("rows.jsonl", kRows).string()};
  ModelText text = text_of("digest");
  RunConfig::Data options;
  Dataset dataset = load_dataset(paths, options, text);
  std::string key = dataset_key(paths, options, text);
  fs::path file = folder.path() / "cache" / (key + ".rows");

  Cached() { write_cached(folder.path() / "cache", key, dataset); }
  std::optional<Dataset> read() const { return read_cached(folder.path() / "cache", key, paths); }
};

}  // namespace

TEST_CASE("a cached data set is the one that was written") {
  const Cached cached;
  const auto read = cached.read();
  REQUIRE(read);
  CHECK(read->path == cached.dataset.path);
  CHECK(read->format == "chat");
  CHECK(read->tokens == cached.dataset.tokens);
  CHECK(read->trained_tokens == cached.dataset.trained_tokens);
  CHECK(read->longest_row_tokens == cached.dataset.longest_row_tokens);
  REQUIRE(read->files.size() == 1);
  CHECK(read->files[0].verdict == cached.dataset.files[0].verdict);
  REQUIRE(read->rows.size() == 2);
  for (size_t i = 0; i < 2; ++i) {
    CHECK(read->rows[i].ids == cached.dataset.rows[i].ids);
    CHECK(read->rows[i].trained == cached.dataset.rows[i].trained);
    CHECK(read->rows[i].line == cached.dataset.rows[i].line);
    CHECK(read->rows[i].content == cached.dataset.rows[i].content);
  }
  CHECK_FALSE(read_cached(cached.folder.path() / "cache", "another", cached.paths));
}

TEST_CASE("a damaged or cut cache is never used, and the next write replaces it") {
  const Cached cached;
  const std::string whole = read_text(cached.file, 1 << 20);
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x40);
    write_file(cached.file, damaged);
    INFO("byte " << at);
    CHECK_FALSE(cached.read());
  }
  for (size_t bytes = 0; bytes < whole.size(); ++bytes) {
    write_file(cached.file, whole.substr(0, bytes));
    CHECK_FALSE(cached.read());
  }
  write_file(cached.file, whole + "x");
  CHECK_FALSE(cached.read());
  write_cached(cached.folder.path() / "cache", cached.key, cached.dataset);
  CHECK(cached.read());
}

TEST_CASE("the key changes with all that changes a row, and with nothing else") {
  const Cached cached;
  const auto key = [&](const std::function<void(RunConfig::Data&)>& change) {
    RunConfig::Data options;
    change(options);
    return dataset_key(cached.paths, options, cached.text);
  };
  using Data = RunConfig::Data;
  for (const auto& change : std::vector<std::function<void(Data&)>>{
           [](Data& o) { o.format = "chat"; },
           [](Data& o) {
             o.map = {{"user", "x"}};
           },
           [](Data& o) { o.max_tokens = 7; }, [](Data& o) { o.too_long = "drop"; },
           [](Data& o) { o.train_on = "all"; }, [](Data& o) { o.append_eos = false; },
           [](Data& o) { o.append_eos = true; }})
    CHECK(key(change) != cached.key);
  for (const auto& change : std::vector<std::function<void(Data&)>>{
           [](Data& o) { o.shuffle = false; }, [](Data& o) { o.packing = false; },
           [](Data& o) { o.eval_fraction = 0.5; }, [](Data& o) { o.cache = "elsewhere"; }})
    CHECK(key(change) == cached.key);

  const auto key_of = [&](const std::vector<std::string>& paths) {
    return dataset_key(paths, {}, cached.text);
  };
  const std::string& path = cached.paths[0];
  CHECK(key_of({cached.folder.file("moved/rows.jsonl", kRows).string()}) == cached.key);
  CHECK(key_of({cached.folder.file("rows.txt", kRows).string()}) != cached.key);
  CHECK(key_of({cached.folder.file("b/rows.jsonl", "{}\n").string()}) != cached.key);
  CHECK(key_of({path, path}) != cached.key);

  CHECK(dataset_key(cached.paths, {}, text_of("another model")) != cached.key);
  CHECK(dataset_key(cached.paths, {}, text_of("digest", "chatml")) != cached.key);
  CHECK(dataset_key(cached.paths, {}, text_of("")).empty());
  const fs::path dated = cached.folder.file("dated.jinja", "{{ strftime_now('%d %b %Y') }}");
  CHECK(dataset_key(cached.paths, {}, text_of("digest", dated.string())).empty());
}

TEST_CASE("what cannot or must not be kept is not") {
  const Cached cached;
  write_cached(cached.folder.file("a_file", ""), cached.key, cached.dataset);  // warns
  Dataset bad = cached.dataset;
  bad.bad.push_back({"reason", "text"});
  write_cached(cached.folder.path() / "other", cached.key, bad);
  CHECK_FALSE(fs::exists(cached.folder.path() / "other"));
}
