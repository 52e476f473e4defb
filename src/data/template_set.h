// TemplateSet: the chat templates of a model, by name, and which of them writes a conversation.
// Part of ModelText; the language itself is text/chat_template.h.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/value.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace lema {

inline constexpr int64_t kMaxTemplateBytes = int64_t{1} << 20;

struct TextSources;

class TemplateSet {
 public:
  // Where a model's templates come from, as transformers' from_pretrained has it: the files
  // chat_template.jinja (its name: default) and additional_chat_templates/NAME.jinja; where there
  // is none, chat_template of tokenizer_config.json: one string (default), or a list of names and
  // templates.
  // override_name: "" for those; else one of their names, "chatml" or "llama3", or a file, in this
  // order: then it alone is used. BadInput for malformed files; Usage for a built-in template whose
  // tokens the tokenizer lacks.
  TemplateSet(const TextSources& sources, const std::string& override_name,
              const Tokenizer& tokenizer);

  bool is_empty() const { return templates_.empty(); }
  // False where an override takes the place of what the model's files say.
  bool is_own() const { return is_own_; }
  // The file, or the override; "" when the set is empty.
  const std::string& origin() const { return origin_; }
  // "tool_use" where `tools` is not null and there is one, else "default". Usage when there is
  // none.
  const ChatTemplate& choose(const Value& tools) const;
  // The source of the only template; nullptr when there are more or none.
  const std::string* only_source() const;
  // Whether a template can ask for today's date, which makes renderings differ from day to day.
  bool asks_date() const;
  // All names and sources, for a fingerprint.
  std::string sources() const;

 private:
  std::string place_;  // the model's folder
  std::string origin_;
  bool is_own_ = true;
  std::map<std::string, ChatTemplate> templates_;
};

}  // namespace lema
