// Gathers tokenizer, templates and special tokens of a model folder. The order in which files
// override each other is that of transformers' from_pretrained.
#include "data/model_text.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <unordered_set>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/log.h"
#include "formats/config_tokens.h"
#include "formats/tokenizer_files.h"

namespace lema {
namespace {

constexpr const char* kTemplateFile = "chat_template.jinja";
constexpr const char* kTemplateFolder = "additional_chat_templates";

// The text of a token entry: a string or an AddedToken object; nullopt when absent or null.
std::optional<std::string> token_text(const std::optional<Value>& json, std::string_view key,
                                      const std::string& file) {
  const Value* value = json ? json->find(key) : nullptr;
  if (!value || value->is_null()) return std::nullopt;
  if (const auto content = token_content(value)) return content;
  fail(ErrorCode::BadInput, "{}: {} is neither a string nor an object with a string \"content\"",
       file, key);
}

// The templates of kTemplateFolder by name, in the order of their names.
std::vector<std::pair<std::string, std::string>> named_templates(FolderReader& reader) {
  std::vector<std::pair<std::string, std::string>> found;
  for (const std::string& name : reader.names(kTemplateFolder, ".jinja"))
    found.emplace_back(
        fs::path(name).stem().string(),
        reader.text(fmt::format("{}/{}", kTemplateFolder, name), kMaxTemplateBytes).value_or(""));
  return found;
}

// An integer member, or the first of a list of them: eos_token_id may be either.
std::optional<int64_t> integer_of(const Value& object, std::string_view key) {
  const Value* value = object.find(key);
  if (value && value->is_array() && !value->as_array().empty()) value = &value->as_array().front();
  return value && value->is_int() ? std::optional(value->as_int()) : std::nullopt;
}

// The members of `variables` become a template's, but for the names that a conversation itself
// gives.
void add_variables(Value& context, const Value& variables, ErrorCode code, const char* place) {
  for (const char* own : {"messages", "tools", "documents", "add_generation_prompt"})
    if (variables.find(own)) fail(code, "{}.{}: this name is the conversation's own", place, own);
  context.merge(variables.as_object());
}

// A message as transformers hands it to a template: without its null members, and with reasoning
// under the names that templates ask for.
Value normalised_message(const Value& message) {
  if (!message.is_object()) return message;
  Value::Object members;
  for (const auto& [key, value] : message.as_object())
    if (!value.is_null()) members.emplace_back(key, value);
  Value result(std::move(members));
  for (const char* key : {"reasoning_content", "thinking", "reasoning"}) {
    const Value* found = result.find(key);
    if (!found) continue;
    const Value reasoning = *found;
    if (!result.find("thinking"))
      result.as_object().insert(result.as_object().begin(), {"thinking", reasoning});
    result.set("reasoning_content", reasoning);
    break;
  }
  return result;
}

// A JSON value as a template's source says it.
std::string jinja_literal(const Value& value) {
  std::string items;
  const auto add = [&](const std::string& item) { items += (items.empty() ? "" : ", ") + item; };
  if (value.is_null()) return "none";
  if (value.is_array()) {
    for (const Value& item : value.as_array()) add(jinja_literal(item));
    return "[" + items + "]";
  }
  if (!value.is_object()) return dump_json(value);
  for (const auto& [key, item] : value.as_object())
    add(fmt::format("{}: {}", dump_json(Value(key)), jinja_literal(item)));
  return "{" + items + "}";
}

Value normalised(const Value& messages) {
  if (!messages.is_array()) return messages;
  Value::Array result;
  result.reserve(messages.as_array().size());
  for (const Value& message : messages.as_array()) result.push_back(normalised_message(message));
  return result;
}

}  // namespace

ModelText::ModelText(const TextSources& sources, const std::string& template_override,
                     const Value& variables)
    : place_(sources.place),
      tokenizer_file_(sources.tokenizer_file),
      tokenizer_(Tokenizer::from_json(
          sources.tokenizer, sources.tokenizer_config ? &*sources.tokenizer_config : nullptr)),
      templates_(sources, template_override, tokenizer_),
      V_(sources.V > 0 ? sources.V : tokenizer_.vocab_size()) {
  if (tokenizer_.vocab_size() > V_)
    log::warn(
        "{}: {} and the configs beside it have ids up to {}, the model's embedding has {} rows: a "
        "text with a token beyond them is refused",
        place_, tokenizer_file_, tokenizer_.vocab_size() - 1, V_);
  take_special_tokens(sources);
  variables_ = special_tokens_;
  given_variables_ = variables;
  if (variables.is_object())
    add_variables(variables_, variables, ErrorCode::Usage, "data.chat_template_kwargs");
  take_stop_ids(sources);
  if (!sources.digest.empty())
    fingerprint_ =
        sha256(fmt::format("{} {} {} {} {}", sources.digest, V_, fmt::join(stop_ids_, ","),
                           templates_.sources(), dump_json(variables_)));
}

void ModelText::take_special_tokens(const TextSources& sources) {
  special_tokens_ = Value(Value::Object{});
  for (const char* key : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token",
                          "cls_token", "mask_token"}) {
    auto text = token_text(sources.tokenizer_config, key, sources.place + "/tokenizer_config.json");
    if (!text)
      text = token_text(sources.special_tokens, key, sources.place + "/special_tokens_map.json");
    if (text) special_tokens_.set(key, *text);
  }
  take_named_tokens(sources);
  for (const auto& [key, text] : {std::pair("bos_token", &sources.tokenizer_bos),
                                  std::pair("eos_token", &sources.tokenizer_eos)})
    if (!special_tokens_.find(key) && tokenizer_.id_of(*text)) special_tokens_.set(key, *text);
  // Folders like the published gpt2 name them by id in config.json only.
  const auto name_by_id = [&](const char* key, std::optional<int64_t> id) {
    if (special_tokens_.find(key) || !id || *id < 0 || *id >= tokenizer_.vocab_size()) return;
    const std::string token = tokenizer_.token(static_cast<int32_t>(*id));
    if (!token.empty()) special_tokens_.set(key, token);  // ids may have gaps
  };
  name_by_id("bos_token", sources.bos_id);
  name_by_id("eos_token", sources.eos_id);
  if (const Value* eos = special_tokens_.find("eos_token")) {
    const auto id = tokenizer_.id_of(eos->as_string());
    if (!id)
      fail(ErrorCode::BadInput, "{}: eos_token \"{}\" is not in the tokenizer", place_,
           escaped(eos->as_string()));
    check_row(*id);
    eos_id_ = *id;
  }
}

// A model's own names for special tokens, which its templates may use: "eot_token", and the members
// of an object extra_special_tokens.
void ModelText::take_named_tokens(const TextSources& sources) {
  if (!sources.tokenizer_config || !sources.tokenizer_config->is_object()) return;
  std::unordered_set<std::string_view> taken;
  for (const auto& [key, text] : special_tokens_.as_object()) taken.insert(key);
  Value::Object found;
  const auto take = [&](const std::string& key, const Value& value) {
    const auto text = token_content(&value);
    if (text && taken.insert(key).second) found.emplace_back(key, *text);
  };
  for (const auto& [key, value] : sources.tokenizer_config->as_object())
    if (key.ends_with("_token")) take(key, value);
  const Value* named = sources.tokenizer_config->find("extra_special_tokens");
  if (named && named->is_object())
    for (const auto& [key, value] : named->as_object()) take(key, value);
  special_tokens_.merge(std::move(found));
}

void ModelText::take_stop_ids(const TextSources& sources) {
  stop_ids_ = sources.stop_ids;
  const auto add = [&](int64_t id) {
    if (!is_stop(id)) stop_ids_.push_back(id);
  };
  if (eos_id_) add(*eos_id_);
  if (const auto id = end_of_turn()) add(*id);
}

// The first special token that the template writes after an assistant's answer.
std::optional<int32_t> ModelText::end_of_turn() const {
  if (templates_.is_empty()) return std::nullopt;
  constexpr std::string_view kAnswer = "lemaprobe";
  const auto message = [](const char* role, std::string_view content) {
    return Value(Value::Object{{"role", role}, {"content", content}});
  };
  std::string text;
  try {
    text = render_chat(Value::Array{message("user", "question"), message("assistant", kAnswer)},
                       Value(), false);
  } catch (const Error&) {
    return std::nullopt;  // a template that needs more than two plain messages: its stop ids come
                          // from the configs
  }
  const size_t answer = text.rfind(kAnswer);
  if (answer == std::string::npos) return std::nullopt;
  for (const int32_t id : tokenizer_.encode(text.substr(answer + kAnswer.size()), false).ids)
    if (tokenizer_.is_special(id)) return id;
  return std::nullopt;
}

Tokenizer::Encoding ModelText::encode(std::string_view text, bool add_special_tokens) const {
  Tokenizer::Encoding encoding = tokenizer_.encode(text, add_special_tokens);
  if (tokenizer_.vocab_size() > V_)
    for (const int32_t id : encoding.ids) check_row(id);
  return encoding;
}

void ModelText::check_row(int32_t id) const {
  if (id >= V_)
    fail(ErrorCode::BadInput,
         "{}: token \"{}\" has id {} of {} in the tokenizer, the model's embedding has {} rows",
         place_, escaped(tokenizer_.token(id)), id, tokenizer_.vocab_size(), V_);
}

bool ModelText::is_stop(int64_t id) const {
  return std::find(stop_ids_.begin(), stop_ids_.end(), id) != stop_ids_.end();
}

std::string ModelText::adapter_template() const {
  const bool has_variables = given_variables_.is_object() && !given_variables_.as_object().empty();
  if (!has_template() || (templates_.is_own() && !has_variables)) return "";
  const std::string* source = templates_.only_source();
  if (!source)
    fail(ErrorCode::Usage,
         "data.chat_template_kwargs: {} has several chat templates; name the one to train with in "
         "data.chat_template",
         place_);
  if (!has_variables) return *source;
  std::string defaults;
  for (const auto& [name, value] : given_variables_.as_object()) {
    // Special tokens are always defined, so theirs is no default.
    const std::string literal = jinja_literal(value);
    defaults +=
        special_tokens_.find(name)
            ? fmt::format("{{% set {} = {} %}}\n", name, literal)
            : fmt::format("{{% set {0} = {0} if {0} is defined else {1} %}}\n", name, literal);
  }
  return ChatTemplate(defaults + *source).source();
}

Value ModelText::context(const Value& messages, const Value& tools, bool add_generation_prompt,
                         const Value& variables) const {
  Value context = variables_;
  if (variables.is_object())
    add_variables(context, variables, ErrorCode::BadInput, "chat_template_kwargs");
  context.set("messages", normalised(messages));
  context.set("tools", tools);
  context.set("documents", Value());
  context.set("add_generation_prompt", add_generation_prompt);
  return context;
}

std::string ModelText::render_chat(const Value& messages, const Value& tools,
                                   bool add_generation_prompt, const Value& variables) const {
  return templates_.choose(tools).render(
      context(messages, tools, add_generation_prompt, variables));
}

ChatTemplate::Rendered ModelText::render_chat_spans(const Value& messages, const Value& tools,
                                                    bool add_generation_prompt,
                                                    const Value& variables) const {
  return templates_.choose(tools).render_spans(
      context(messages, tools, add_generation_prompt, variables));
}

TextSources read_text_sources(const fs::path& folder) {
  TextSources sources;
  sources.place = folder.string();
  if (!fs::is_directory(folder)) fail(ErrorCode::BadInput, "{}: no such folder", sources.place);
  FolderReader reader(folder);
  sources.tokenizer_config = reader.json("tokenizer_config.json");
  sources.special_tokens = reader.json("special_tokens_map.json");
  if (sources.tokenizer_config)
    if (const Value* split = sources.tokenizer_config->find("split_special_tokens");
        split && *split == Value(true))
      fail(
          ErrorCode::BadInput,
          "{}/tokenizer_config.json: split_special_tokens is true, which is not supported: special "
          "tokens in a text are read as tokens",
          sources.place);
  auto tokenizer =
      read_tokenizer_file(reader, sources.tokenizer_config ? &*sources.tokenizer_config : nullptr,
                          sources.special_tokens ? &*sources.special_tokens : nullptr);
  if (!tokenizer)
    fail(ErrorCode::BadInput,
         "{}: no tokenizer.json, tekken.json, tokenizer.model, *.tiktoken or vocab.json with "
         "merges.txt",
         sources.place);
  sources.tokenizer = std::move(tokenizer->json);
  sources.tokenizer_file = tokenizer->name;
  sources.tokenizer_bos = tokenizer->bos;
  sources.tokenizer_eos = tokenizer->eos;
  sources.template_file = reader.text(kTemplateFile, kMaxTemplateBytes).value_or("");
  sources.named_template_files = named_templates(reader);
  if (const auto config = reader.json("config.json")) {
    sources.V = integer_of(*config, "vocab_size").value_or(0);
    sources.bos_id = integer_of(*config, "bos_token_id");
    sources.eos_id = integer_of(*config, "eos_token_id");
  }
  sources.digest = reader.digest();
  return sources;
}

ModelText load_model_text(const ModelFolder& folder, const std::string& template_override,
                          const Value& variables) {
  TextSources sources = read_text_sources(folder.path());
  sources.V = folder.config().V;
  sources.stop_ids = folder.stop_ids();
  return ModelText(sources, template_override, variables);
}

}  // namespace lema
