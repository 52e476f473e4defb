// Gathers tokenizer, templates and special tokens of a model folder. The order in which files
// override each other is that of transformers' from_pretrained.
#include "data/model_text.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "core/error.h"
#include "core/file.h"
#include "formats/confined_path.h"
#include "formats/json.h"

namespace lema {
namespace {

constexpr int64_t kMaxTemplateBytes = int64_t{1} << 20;
constexpr const char* kTemplateFile = "chat_template.jinja";
constexpr const char* kToolTemplateFile = "additional_chat_templates/tool_use.jinja";

// Templates that can be asked for by name, and the tokens each needs.
struct NamedTemplate {
  std::string_view name, source;
  std::array<std::string_view, 3> tokens;
};
constexpr NamedTemplate kNamedTemplates[] = {
    {"chatml",
     "{%- for message in messages -%}\n"
     "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}\n"
     "{%- endfor -%}\n"
     "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}",
     {"<|im_start|>", "<|im_end|>", ""}},
    {"llama3",
     "{{- bos_token -}}\n"
     "{%- for message in messages -%}\n"
     "{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim "
     "+ '<|eot_id|>' }}\n"
     "{%- endfor -%}\n"
     "{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' "
     "}}{%- endif -%}",
     {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}},
};

const NamedTemplate* find_named_template(std::string_view name) {
  for (const NamedTemplate& named : kNamedTemplates)
    if (named.name == name) return &named;
  return nullptr;
}

// The text of a token entry: a string or an AddedToken object; nullopt when absent or null.
std::optional<std::string> token_text(const std::optional<Value>& json, std::string_view key,
                                      const std::string& file) {
  const Value* value = json ? json->find(key) : nullptr;
  if (!value || value->is_null()) return std::nullopt;
  if (value->is_object()) value = value->find("content");
  if (value && value->is_string()) return value->as_string();
  fail(ErrorCode::BadInput, "{}: {} is neither a string nor an object with a string \"content\"",
       file, key);
}

// The template of that name in tokenizer_config.json's `chat_template`: one string is "default".
std::string config_template(const std::optional<Value>& config, std::string_view wanted,
                            const std::string& file) {
  const Value* entry = config ? config->find("chat_template") : nullptr;
  if (!entry || entry->is_null()) return "";
  if (entry->is_string()) return wanted == "default" ? entry->as_string() : "";
  if (!entry->is_array())
    fail(ErrorCode::BadInput, "{}: chat_template is {}, expected a string or a list", file,
         name(entry->kind()));
  for (const Value& item : entry->as_array()) {
    const Value* item_name = item.find("name");
    const Value* source = item.find("template");
    if (!item_name || !item_name->is_string() || !source || !source->is_string())
      fail(ErrorCode::BadInput,
           "{}: an entry of chat_template is not {{\"name\": string, \"template\": string}}", file);
    if (item_name->as_string() == wanted) return source->as_string();
  }
  return "";
}

// The folder's file of that name, "" when absent.
std::string optional_text(const fs::path& folder, const char* name) {
  const auto path = confined_path(folder, name, folder.string());
  return path ? read_text(*path, kMaxTemplateBytes) : "";
}

// An integer member, or the first of a list of them: eos_token_id may be either.
std::optional<int64_t> integer_of(const Value& object, std::string_view key) {
  const Value* value = object.find(key);
  if (value && value->is_array() && !value->as_array().empty()) value = &value->as_array().front();
  return value && value->is_int() ? std::optional(value->as_int()) : std::nullopt;
}

// The ids are the vocabulary's and the added tokens' alike.
Tokenizer open_tokenizer(const TextSources& sources) {
  Tokenizer tokenizer = Tokenizer::from_json(
      sources.tokenizer, sources.tokenizer_config ? &*sources.tokenizer_config : nullptr);
  if (sources.V > 0 && tokenizer.vocab_size() > sources.V)
    fail(ErrorCode::BadInput,
         "{}: tokenizer.json has ids up to {}, the model's embedding has {} rows", sources.place,
         tokenizer.vocab_size() - 1, sources.V);
  return tokenizer;
}

}  // namespace

ModelText::ModelText(const TextSources& sources, const std::string& template_override)
    : place_(sources.place),
      tokenizer_(open_tokenizer(sources)),
      V_(sources.V > 0 ? sources.V : tokenizer_.vocab_size()) {
  take_special_tokens(sources);
  take_templates(sources, template_override);
  take_stop_ids(sources);
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
    eos_id_ = *id;
  }
}

void ModelText::take_templates(const TextSources& sources, const std::string& override_name) {
  std::string source = override_name.empty() ? sources.template_file : "";
  template_origin_ = override_name.empty() ? kTemplateFile : override_name;
  if (const NamedTemplate* named = find_named_template(override_name)) {
    for (const std::string_view token : named->tokens)
      if (!token.empty() && !tokenizer_.id_of(token))
        fail(ErrorCode::Usage, "chat template {}: the tokenizer of {} has no token {}",
             override_name, place_, token);
    source = named->source;
  } else if (!override_name.empty()) {
    source = read_text(override_name, kMaxTemplateBytes);
  }
  std::string tool_source = override_name.empty() ? sources.tool_template_file : "";
  if (override_name.empty() && source.empty() && tool_source.empty()) {
    const std::string file = sources.place + "/tokenizer_config.json";
    source = config_template(sources.tokenizer_config, "default", file);
    tool_source = config_template(sources.tokenizer_config, "tool_use", file);
    template_origin_ = "tokenizer_config.json";
  }
  if (!source.empty()) template_.emplace(source);
  if (!tool_source.empty()) tool_template_.emplace(tool_source);
  if (!template_) template_origin_.clear();
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
  if (!template_) return std::nullopt;
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

bool ModelText::is_stop(int64_t id) const {
  return std::find(stop_ids_.begin(), stop_ids_.end(), id) != stop_ids_.end();
}

const ChatTemplate& ModelText::template_for(const Value& tools) const {
  if (tool_template_ && tools.is_array() && !tools.as_array().empty()) return *tool_template_;
  if (!template_)
    fail(ErrorCode::Usage, "{} has no chat template; give one: a file, chatml or llama3", place_);
  return *template_;
}

Value ModelText::context(const Value& messages, const Value& tools,
                         bool add_generation_prompt) const {
  Value context = special_tokens_;
  context.set("messages", messages);
  context.set("tools", tools);
  context.set("documents", Value());
  context.set("add_generation_prompt", add_generation_prompt);
  return context;
}

std::string ModelText::render_chat(const Value& messages, const Value& tools,
                                   bool add_generation_prompt) const {
  return template_for(tools).render(context(messages, tools, add_generation_prompt));
}

ChatTemplate::Rendered ModelText::render_chat_spans(const Value& messages, const Value& tools,
                                                    bool add_generation_prompt) const {
  return template_for(tools).render_spans(context(messages, tools, add_generation_prompt));
}

TextSources read_text_sources(const fs::path& folder) {
  TextSources sources;
  sources.place = folder.string();
  if (!fs::is_directory(folder)) fail(ErrorCode::BadInput, "{}: no such folder", sources.place);
  auto tokenizer = optional_json(folder, "tokenizer.json");
  if (!tokenizer)
    fail(ErrorCode::BadInput, "{}: no tokenizer.json{}", sources.place,
         fs::exists(folder / "tokenizer.model") ? "; tokenizer.model alone is not supported" : "");
  sources.tokenizer = std::move(*tokenizer);
  sources.tokenizer_config = optional_json(folder, "tokenizer_config.json");
  sources.special_tokens = optional_json(folder, "special_tokens_map.json");
  sources.template_file = optional_text(folder, kTemplateFile);
  sources.tool_template_file = optional_text(folder, kToolTemplateFile);
  if (const auto config = optional_json(folder, "config.json")) {
    sources.V = integer_of(*config, "vocab_size").value_or(0);
    sources.bos_id = integer_of(*config, "bos_token_id");
    sources.eos_id = integer_of(*config, "eos_token_id");
  }
  return sources;
}

ModelText load_model_text(const ModelFolder& folder, const std::string& template_override) {
  TextSources sources = read_text_sources(folder.path());
  sources.V = folder.config().V;
  sources.stop_ids = folder.stop_ids();
  return ModelText(sources, template_override);
}

}  // namespace lema
