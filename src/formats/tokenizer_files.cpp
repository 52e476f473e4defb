// Chooses the tokenizer's file, has it read, and adds what the files beside it say about special
// tokens, in the order of transformers' from_pretrained.
#include "formats/tokenizer_files.h"

#include <unordered_set>
#include <vector>

#include "core/error.h"
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

// The content of a token entry, a string or an AddedToken object; "" for anything else.
std::string content_of(const Value* token) {
  if (token && token->is_object()) token = token->find("content");
  return token && token->is_string() ? token->as_string() : "";
}

// Every token that the configs give a role or call special.
std::vector<std::string> named_tokens(const Value& config, const Value* special_map) {
  std::vector<std::string> names;
  const auto add = [&](const Value* token) {
    if (auto name = content_of(token); !name.empty()) names.push_back(std::move(name));
  };
  for (const Value* source : {&config, special_map}) {
    if (!source) continue;
    for (const char* role : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token",
                             "cls_token", "mask_token"})
      add(source->find(role));
    for (const char* list : {"additional_special_tokens", "extra_special_tokens"})
      if (const Value* tokens = source->find(list); tokens && tokens->is_array())
        for (const Value& token : tokens->as_array()) add(&token);
  }
  return names;
}

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

void add_special_tokens(FolderReader& folder, const Value& config, const Value* special_map,
                        Source& source) {
  std::vector<std::string> names = named_tokens(config, special_map);
  for (const std::string& token : {source.bos, source.eos}) names.push_back(token);
  Value::Array added = source.json.find("added_tokens")->as_array();
  std::unordered_set<std::string> known;
  for (const Value& entry : added) known.insert(entry.find("content")->as_string());
  const std::unordered_set<std::string> special(names.begin(), names.end());
  for (const auto& [token, id] : source.json.find("model")->find("vocab")->as_object())
    if (special.contains(token) && known.insert(token).second)
      added.push_back(added_token_json(id.as_int(), token, true));
  if (const auto more = folder.json("added_tokens.json");
      more && !config.find("added_tokens_decoder")) {
    const std::string place = folder.place("added_tokens.json");
    if (!more->is_object())
      fail(ErrorCode::BadInput, "{}: found {}, expected an object", place, name(more->kind()));
    for (const auto& [token, id] : more->as_object()) {
      if (token.empty() || !id.is_int())
        fail(ErrorCode::BadInput, "{}:{}: expected a token and its id", place, id.line);
      Value entry = added_token_json(id.as_int(), token, special.contains(token));
      entry.set("normalized", !special.contains(token));
      if (known.insert(token).second) added.push_back(std::move(entry));
    }
  }
  source.json.set("added_tokens", std::move(added));
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

}  // namespace

bool has_tokenizer(const FolderReader& folder) {
  for (const char* name :
       {"tokenizer.json", "tekken.json", "tokenizer.model", "merges.txt", "vocab.txt"})
    if (fs::exists(folder.folder() / name)) return true;
  return !folder.names("", ".tiktoken").empty();
}

std::optional<TokenizerFile> read_tokenizer_file(FolderReader& folder, const Value* config,
                                                 const Value* special_map) {
  if (auto json = folder.json("tokenizer.json"))
    return TokenizerFile{"tokenizer.json", std::move(*json), "", ""};
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
  const Value& roles = config ? *config : kNoConfig;
  add_special_tokens(folder, roles, special_map, source);
  frame(roles, source);
  file.json = std::move(source.json);
  file.bos = source.bos;
  file.eos = source.eos;
  return file;
}

}  // namespace lema
