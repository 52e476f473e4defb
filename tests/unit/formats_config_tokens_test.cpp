// Tokens that only the configs of a folder name, and what is refused beside and in place of a
// tokenizer.json.
#include <string>
#include <utility>
#include <vector>

#include "formats/tokenizer_files.h"
#include "support/message_of.h"
#include "support/temp_folder.h"

using namespace lema;

namespace {

// Added tokens as "id content, ..." of a folder with `files` and a tokenizer.json of "a", "b" and
// the added token "<e>" of id 2.
std::string added_tokens(const std::vector<std::pair<const char*, const char*>>& files) {
  const TempFolder folder("config_tokens");
  write_file(folder.path() / "tokenizer.json",
             R"({"added_tokens": [{"id": 2, "content": "<e>", "special": true}],
                 "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}})");
  for (const auto& [name, text] : files) write_file(folder.path() / name, text);
  FolderReader reader(folder.path());
  const auto config = reader.json("tokenizer_config.json");
  const auto map = reader.json("special_tokens_map.json");
  const auto file = read_tokenizer_file(reader, config ? &*config : nullptr, map ? &*map : nullptr);
  std::string out;
  for (const Value& token : file->json.find("added_tokens")->as_array())
    out += fmt::format("{}{} {}{}", out.empty() ? "" : ", ", token.find("id")->as_int(),
                       token.find("content")->as_string(),
                       token.find("special")->as_bool() ? "" : " plain");
  return out;
}

}  // namespace

// The expected ids are those of transformers 5.23.
TEST_CASE("tokens that only the configs name get the next ids, in transformers' order") {
  const auto with_config = [](const char* text) {
    return added_tokens({{"tokenizer_config.json", text}});
  };
  CHECK(added_tokens({}) == "2 <e>");
  CHECK(with_config(R"({"eos_token": "<e>", "pad_token": null})") == "2 <e>");
  CHECK(with_config(R"({"extra_special_tokens": ["<x>", "<y>"], "pad_token": "[P]",
                        "bos_token": {"__type": "AddedToken", "content": "<s>"}})") ==
        "2 <e>, 3 <s>, 4 [P], 5 <x>, 6 <y>");
  CHECK(with_config(R"({"additional_special_tokens": ["<x>"], "extra_special_tokens": {},
                        "image_token": "<i>"})") == "2 <e>, 3 <i>, 4 <x>");
  CHECK(with_config(R"({"pad_token": "b"})") == "2 <e>, 1 b");
  CHECK(added_tokens({{"added_tokens.json", R"({"<y>": 4, "<x>": 3})"},
                      {"special_tokens_map.json", R"({"pad_token": "<y>"})"}}) ==
        "2 <e>, 3 <x> plain, 4 <y>");
  const char* decoder =
      R"({"added_tokens_decoder": {"3": {"content": "<x>"}}, "pad_token": "[P]"})";
  CHECK(added_tokens({{"tokenizer_config.json", decoder},
                      {"special_tokens_map.json", R"({"cls_token": "[C]"})"}}) == "2 <e>, 4 [P]");
  CHECK_BAD_INPUT(added_tokens({{"added_tokens.json", R"({"<x>": 9})"}}),
                  "added_tokens.json:1: \"<x>\" has id 9, expected 3");
}

TEST_CASE("a tokenizer.json has no parts of other files, and its blank is the config's for GPT-2") {
  const auto read = [](const char* json, const char* config) {
    const TempFolder folder("tokenizer_files");
    write_file(folder.path() / "tokenizer.json", json);
    write_file(folder.path() / "tokenizer_config.json", config);
    FolderReader reader(folder.path());
    const auto roles = reader.json("tokenizer_config.json");
    return read_tokenizer_file(reader, &*roles, nullptr)->json;
  };
  const char* user_defined = R"({"model": {"user_defined": [-5]}})";
  const char* rules =
      R"({"normalizer": {"type": "Sequence", "normalizers": [{"type": "SentencePiece"}]}})";
  CHECK_BAD_INPUT(read(R"({"model": {"token_ranks": []}})", "{}"),
                  "tokenizer.json: model: unknown key \"token_ranks\"");
  CHECK_BAD_INPUT(read(user_defined, "{}"), "tokenizer.json: model: unknown key \"user_defined\"");
  CHECK_BAD_INPUT(read(rules, "{}"), "tokenizer.json: normalizer type \"SentencePiece\"");
  const char* bytes = R"({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false}})";
  const auto prefixes = [&](const char* config) {
    return read(bytes, config).find("pre_tokenizer")->find("add_prefix_space")->as_bool();
  };
  CHECK(prefixes(R"({"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": true})"));
  CHECK_FALSE(prefixes(R"({"add_prefix_space": true})"));
  CHECK_FALSE(prefixes(R"({"tokenizer_class": "GPT2Tokenizer"})"));
}

TEST_CASE("what stands in for a file that was not downloaded is named") {
  const TempFolder folder("tokenizer_files");
  const auto read = [&](std::string_view bytes) {
    write_file(folder.path() / "tokenizer.model", bytes);
    FolderReader reader(folder.path());
    read_tokenizer_file(reader, nullptr, nullptr);
  };
  CHECK_BAD_INPUT(read("version https://git-lfs.github.com/spec/v1\n"), "git-LFS pointer");
  CHECK_BAD_INPUT(read("<!DOCTYPE html><html></html>"), "tokenizer.model: this is an HTML page");
}
