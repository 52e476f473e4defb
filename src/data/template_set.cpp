// Which template a model has, and the two that lema brings along.
#include "data/template_set.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "core/error.h"
#include "core/file.h"
#include "data/model_text.h"

namespace lema {
namespace {

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

// tokenizer_config.json's `chat_template`: one string is "default".
std::map<std::string, std::string> config_templates(const std::optional<Value>& config,
                                                    const std::string& file) {
  std::map<std::string, std::string> found;
  const Value* entry = config ? config->find("chat_template") : nullptr;
  if (!entry || entry->is_null()) return found;
  if (entry->is_string()) {
    found["default"] = entry->as_string();
    return found;
  }
  if (!entry->is_array())
    fail(ErrorCode::BadInput, "{}: chat_template is {}, expected a string or a list", file,
         name(entry->kind()));
  for (const Value& item : entry->as_array()) {
    const Value* item_name = item.find("name");
    const Value* source = item.find("template");
    if (!item_name || !item_name->is_string() || !source || !source->is_string())
      fail(ErrorCode::BadInput,
           "{}: an entry of chat_template is not {{\"name\": string, \"template\": string}}", file);
    found[item_name->as_string()] = source->as_string();
  }
  return found;
}

}  // namespace

TemplateSet::TemplateSet(const TextSources& sources, const std::string& override_name,
                         const Tokenizer& tokenizer)
    : place_(sources.place), origin_("chat_template.jinja") {
  std::map<std::string, std::string> found(sources.named_template_files.begin(),
                                           sources.named_template_files.end());
  if (!sources.template_file.empty()) found["default"] = sources.template_file;
  if (found.empty()) {
    found = config_templates(sources.tokenizer_config, sources.place + "/tokenizer_config.json");
    origin_ = "tokenizer_config.json";
  }
  if (!override_name.empty()) {
    std::string source;
    if (const auto own = found.find(override_name); own != found.end()) {
      source = own->second;
    } else if (const NamedTemplate* named = find_named_template(override_name)) {
      for (const std::string_view token : named->tokens)
        if (!token.empty() && !tokenizer.id_of(token))
          fail(ErrorCode::Usage, "chat template {}: the tokenizer of {} has no token {}",
               override_name, place_, token);
      source = named->source;
    } else {
      source = read_text(override_name, kMaxTemplateBytes);
    }
    std::map<std::string, std::string> chosen = {{"default", source}};
    is_own_ = found == chosen;
    found = std::move(chosen);
    origin_ = override_name;
  }
  const std::string file = override_name.empty() ? place_ + "/" + origin_ : origin_;
  for (auto& [name, source] : found) {
    try {
      templates_.emplace(name, ChatTemplate(std::move(source)));
    } catch (const Error& error) {
      fail(error.code(), "{}{}: {}", file, name == "default" ? "" : " (" + escaped(name) + ")",
           error.what());
    }
  }
  if (templates_.empty()) origin_.clear();
}

const ChatTemplate& TemplateSet::choose(const Value& tools) const {
  if (const auto found = templates_.find("tool_use"); !tools.is_null() && found != templates_.end())
    return found->second;
  if (const auto found = templates_.find("default"); found != templates_.end())
    return found->second;
  if (templates_.empty())
    fail(ErrorCode::Usage, "{} has no chat template; give one: a file, chatml or llama3", place_);
  std::string names;
  for (const auto& [name, chat_template] : templates_) names += (names.empty() ? "" : ", ") + name;
  fail(ErrorCode::Usage, "{} has the chat templates {} and no default; name one of them", place_,
       names);
}

const std::string* TemplateSet::only_source() const {
  return templates_.size() == 1 ? &templates_.begin()->second.source() : nullptr;
}

bool TemplateSet::asks_date() const {
  return std::any_of(templates_.begin(), templates_.end(), [](const auto& named) {
    return named.second.source().find("strftime_now") != std::string::npos;
  });
}

std::string TemplateSet::sources() const {
  std::string all;
  for (const auto& [name, chat_template] : templates_)
    all += fmt::format("{} {} {}", name, chat_template.source().size(), chat_template.source());
  return all;
}

}  // namespace lema
