// Chooses the tokenizer's file, has it read, and adds what the files beside it say about special
// tokens, in the order of transformers' from_pretrained.
#include "formats/tokenizer_files.h"

#include <vector>

#include "core/error.h"
#include "formats/config_tokens.h"
#include "formats/json_fields.h"
#include "formats/sentencepiece_model.h"
#include "formats/tekken.h"
#include "formats/tiktoken.h"
#include "formats/tokenizer_parts.h"
#include "formats/vocab_merges.h"

namespace lema {
namespace {

// A tokenizer and how its own code frames a text; the folder's configs may overrule that.
struct Source {
  Value json;
  std::string bos, eos;
  bool adds_bos = false;
};

const Value kNoConfig{Value::Object{}};

// The text of a token, or of any string; "" for anything else.
std::string content_of(const Value* token) { return token_content(token).value_or(""); }

// `bytes` is the file `place`, a SentencePiece model or tiktoken's ranks.
Source read_model_file(std::string_view bytes, const std::string& place, const Value* config) {
  if (looks_like_tiktoken(bytes)) {
    TiktokenTokenizer tiktoken = read_tiktoken(bytes, place);
    return {std::move(tiktoken.json), tiktoken.bos, tiktoken.eos, tiktoken.adds_bos};
  }
  const SentencePieceModel model = read_sentencepiece(bytes, place);
  const JsonFields fields(config ? *config : kNoConfig, "tokenizer_config.json");
  const char* prefix = !fields.boolean("add_prefix_space", model.add_dummy_prefix) ? "never"
                       : !config || fields.boolean("legacy", false)                ? "always"
                                                                                   : "first";
  return {sentencepiece_tokenizer_json(model, prefix), model.bos, model.eos, true};
}

// The name of the folder's only *.tiktoken file, "" when there is none.
std::string tiktoken_name(const FolderReader& folder) {
  const std::vector<std::string> names = folder.names("", ".tiktoken");
  if (names.size() > 1)
    fail(ErrorCode::BadInput, "{}: {} files end in .tiktoken, expected one",
         folder.folder().string(), names.size());
  return names.empty() ? "" : names[0];
}

Source read_vocab_merges(FolderReader& folder, std::string_view merges, const Value* config) {
  const std::string place = folder.folder().string();
  const auto vocab = folder.json("vocab.json");
  if (!vocab) fail(ErrorCode::BadInput, "{}: merges.txt without vocab.json", place);
  const JsonFields fields(config ? *config : kNoConfig, "tokenizer_config.json");
  std::string tokenizer_class = fields.text("tokenizer_class", "");
  if (tokenizer_class.empty()) {  // transformers goes by the model's type then
    const Value model = folder.json("config.json").value_or(kNoConfig);
    const std::string type = JsonFields(model, "config.json").text("model_type", "");
    if (type == "gpt2" || type == "phi") tokenizer_class = "GPT2Tokenizer";
    if (type.starts_with("qwen2") || type.starts_with("qwen3")) tokenizer_class = "Qwen2Tokenizer";
  }
  Value json = vocab_merges_tokenizer_json(*vocab, merges, tokenizer_class,
                                           fields.boolean("add_prefix_space", false), place);
  return {std::move(json), "<|endoftext|>", "<|endoftext|>", false};
}

// What the configs add to the tokenizer's own tokens.
void add_tokens(FolderReader& folder, const Value& config, const Value* special_map, Value& json) {
  const auto added = folder.json("added_tokens.json");
  add_config_tokens(
      json, {config, special_map, added ? &*added : nullptr, folder.place("added_tokens.json")});
}

// The tokenizer's own BOS and EOS are special, if its vocabulary has them.
void mark_frame_tokens(Source& source) {
  Value own = Value::Object{};
  for (const auto& [token, id] : source.json.find("model")->find("vocab")->as_object()) {
    if (token == source.bos) own.set("bos_token", token);
    if (token == source.eos) own.set("eos_token", token);
  }
  add_config_tokens(source.json, {own});
}

// The id of a token that is to frame texts: the config's word comes before the tokenizer's.
int64_t id_of(const std::string& text, const Value& config, const Value& tokenizer) {
  if (const Value* added = config.find("added_tokens_decoder"); added && added->is_object())
    for (const auto& [id, token] : added->as_object())
      if (content_of(&token) == text && !id.empty() && id.size() < 10 &&
          id.find_first_not_of("0123456789") == std::string::npos)
        return std::stoll(id);
  for (const Value& added : tokenizer.find("added_tokens")->as_array())
    if (added.find("content")->as_string() == text) return added.find("id")->as_int();
  if (const Value* id = tokenizer.find("model")->find("vocab")->find(text)) return id->as_int();
  fail(ErrorCode::BadInput,
       "tokenizer_config.json: \"{}\" is to be added to every text, but is no "
       "token",
       escaped(text));
}

void frame(const Value& config, Source& source) {
  const JsonFields fields(config, "tokenizer_config.json");
  if (const auto bos = content_of(config.find("bos_token")); !bos.empty()) source.bos = bos;
  if (const auto eos = content_of(config.find("eos_token")); !eos.empty()) source.eos = eos;
  const bool bos = fields.boolean("add_bos_token", source.adds_bos && !source.bos.empty());
  const bool eos = fields.boolean("add_eos_token", false);
  const auto token = [&](bool adds, const std::string& text) -> std::optional<FrameToken> {
    if (!adds) return std::nullopt;
    return FrameToken{text, id_of(text, config, source.json)};
  };
  source.json.set("post_processor", frame_json(token(bos, source.bos), token(eos, source.eos)));
}

// Parts that the readers of other files write into their tokenizer.json, and no such file has.
void refuse_own_parts(const Value& json, const std::string& place) {
  const Value* model = json.find("model");
  for (const char* key : {"token_ranks", "user_defined"})
    if (model && model->find(key))
      fail(ErrorCode::BadInput, "{}: model: unknown key \"{}\"", place, key);
  for (const char* part : {"normalizer", "decoder"}) {
    std::vector<const Value*> stages = {json.find(part)};
    while (!stages.empty()) {
      const Value* stage = stages.back();
      stages.pop_back();
      if (!stage || !stage->is_object()) continue;
      if (content_of(stage->find("type")) == "SentencePiece")
        fail(ErrorCode::BadInput, "{}: {} type \"SentencePiece\" is not known", place, part);
      for (const char* list : {"normalizers", "decoders"})
        if (const Value* inner = stage->find(list); inner && inner->is_array())
          for (const Value& next : inner->as_array()) stages.push_back(&next);
    }
  }
}

// Of the classes that transformers makes from a tokenizer.json, GPT-2's has its own word about the
// blank before a text.
void take_prefix_space(const Value& config, Value& json) {
  const JsonFields fields(config, "tokenizer_config.json");
  const Value* words = json.find("pre_tokenizer");
  if (!fields.find("add_prefix_space") || !words ||
      content_of(words->find("type")) != "ByteLevel" ||
      !content_of(config.find("tokenizer_class")).starts_with("GPT2Tokenizer"))
    return;
  Value changed = *words;
  changed.set("add_prefix_space", fields.boolean("add_prefix_space", false));
  json.set("pre_tokenizer", std::move(changed));
}

}  // namespace

bool has_tokenizer(const FolderReader& folder) {
  for (const char* name :
       {"tokenizer.json", "tekken.json", "tokenizer.model", "merges.txt", "vocab.txt"})
    if (fs::exists(folder.folder() / name)) return true;
  return !folder.names("", ".tiktoken").empty();
}

std::optional<TokenizerFile> read_tokenizer_file(FolderReader& folder, const Value* config,
                                                 const Value* special_map) {
  const Value& roles = config ? *config : kNoConfig;
  if (auto json = folder.json("tokenizer.json")) {
    refuse_own_parts(*json, folder.place("tokenizer.json"));
    take_prefix_space(roles, *json);
    add_tokens(folder, roles, special_map, *json);
    return TokenizerFile{"tokenizer.json", std::move(*json), "", ""};
  }
  TokenizerFile file;
  Source source;
  if (const auto tekken = folder.json("tekken.json")) {
    file.name = "tekken.json";
    source = {tekken_tokenizer_json(*tekken, folder.place(file.name)), "<s>", "</s>", true};
  } else if (const auto model = folder.text("tokenizer.model")) {
    file.name = "tokenizer.model";
    source = read_model_file(*model, folder.place(file.name), config);
  } else if (const std::string name = tiktoken_name(folder); !name.empty()) {
    file.name = name;
    source = read_model_file(folder.text(name).value_or(""), folder.place(name), config);
  } else if (const auto merges = folder.text("merges.txt")) {
    file.name = "vocab.json";
    source = read_vocab_merges(folder, *merges, config);
  } else if (folder.text("vocab.txt")) {
    fail(ErrorCode::BadInput, "{}: WordPiece is not supported; supported: BPE",
         folder.place("vocab.txt"));
  } else {
    return std::nullopt;
  }
  mark_frame_tokens(source);
  add_tokens(folder, roles, special_map, source.json);
  frame(roles, source);
  file.json = std::move(source.json);
  file.bos = source.bos;
  file.eos = source.eos;
  return file;
}

}  // namespace lema
