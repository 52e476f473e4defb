// ModelText: what a model folder says about text: its tokenizer, its chat template, the special
// tokens the template prints and the ids a reply ends on. Data sets, chat, evaluation and `lema
// tokenize` turn text into ids through it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/value.h"
#include "formats/hf_model.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace lema {

// A folder's text files, parsed, with what its configs say about ids. read_text_sources fills it;
// tests make one by hand.
struct TextSources {
  std::string place;                      // the folder, for messages
  Value tokenizer;                        // tokenizer.json
  std::optional<Value> tokenizer_config;  // tokenizer_config.json
  std::optional<Value>
      special_tokens;  // special_tokens_map.json, read where tokenizer_config.json lacks a token
  std::string template_file;       // chat_template.jinja, "" when absent
  std::string tool_template_file;  // additional_chat_templates/tool_use.jinja, "" when absent
  int64_t V = 0;  // rows of the embedding; 0: not known, the tokenizer's ids are all there are
  std::vector<int64_t> stop_ids;          // eos_token_id of generation_config.json and config.json
  std::optional<int64_t> bos_id, eos_id;  // config.json's
};

class ModelText {
 public:
  // template_override: "" for the model's own template (chat_template.jinja before the entry of
  // tokenizer_config.json; of several, "default", and "tool_use" where tools are given), "chatml",
  // "llama3", or a file. BadInput for malformed files and for a tokenizer with ids beyond the
  // embedding; Usage for a built-in template whose tokens the tokenizer lacks.
  explicit ModelText(const TextSources& sources, const std::string& template_override = "");

  const Tokenizer& tokenizer() const { return tokenizer_; }
  bool has_template() const { return template_.has_value(); }
  // "chat_template.jinja", "tokenizer_config.json", the override; "" when there is none.
  const std::string& template_origin() const { return template_origin_; }
  // Rows of the embedding: every id is below.
  int64_t V() const { return V_; }
  // Every id a reply ends on, the tokenizer's EOS and the template's end-of-turn token among them.
  const std::vector<int64_t>& stop_ids() const { return stop_ids_; }
  bool is_stop(int64_t id) const;
  // The tokenizer's end-of-sequence token, else config.json's.
  std::optional<int32_t> eos_id() const { return eos_id_; }

  // The conversation as the template writes it. messages: array of {role, content, ...}; tools:
  // array or null. The text is to be encoded with add_special_tokens = false: templates print BOS
  // themselves. Usage when there is no template, BadInput when it refuses the conversation.
  std::string render_chat(const Value& messages, const Value& tools,
                          bool add_generation_prompt) const;
  // The same with the byte spans of {% generation %} blocks.
  ChatTemplate::Rendered render_chat_spans(const Value& messages, const Value& tools,
                                           bool add_generation_prompt) const;

 private:
  void take_special_tokens(const TextSources& sources);
  void take_templates(const TextSources& sources, const std::string& override_name);
  void take_stop_ids(const TextSources& sources);
  std::optional<int32_t> end_of_turn() const;
  const ChatTemplate& template_for(const Value& tools) const;
  Value context(const Value& messages, const Value& tools, bool add_generation_prompt) const;

  std::string place_;
  Tokenizer tokenizer_;
  std::optional<ChatTemplate> template_, tool_template_;
  std::string template_origin_;
  Value special_tokens_;  // {"bos_token": "<s>", ...}, part of every template's context
  std::optional<int32_t> eos_id_;
  std::vector<int64_t> stop_ids_;
  int64_t V_ = 0;
};

// Reads tokenizer.json, tokenizer_config.json, special_tokens_map.json, the templates and, where it
// is there, config.json: the folder needs no weights. stop_ids stay empty.
TextSources read_text_sources(const fs::path& folder);

// The text of a model that is trained or run: every id is checked against its embedding.
ModelText load_model_text(const ModelFolder& folder, const std::string& template_override = "");

}  // namespace lema
