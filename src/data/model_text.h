// ModelText: what a model folder says about text: its tokenizer, its chat template, the special
// tokens the template prints and the ids a reply ends on. Data sets, chat, evaluation and `lema
// tokenize` turn text into ids through it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/value.h"
#include "data/template_set.h"
#include "formats/hf_model.h"
#include "text/tokenizer.h"

namespace lema {

// A folder's text files, parsed, with what its configs say about ids. read_text_sources fills it;
// tests make one by hand.
struct TextSources {
  std::string place;  // the folder, for messages
  Value tokenizer;    // tokenizer.json, or what tokenizer_file says as one
  std::string tokenizer_file = "tokenizer.json";
  std::string tokenizer_bos, tokenizer_eos;  // used where the configs name none; "" when unknown
  std::optional<Value> tokenizer_config;     // tokenizer_config.json
  std::optional<Value>
      special_tokens;  // special_tokens_map.json, read where tokenizer_config.json lacks a token
  std::string template_file;  // chat_template.jinja, "" when absent
  // additional_chat_templates/NAME.jinja by NAME
  std::vector<std::pair<std::string, std::string>> named_template_files;
  int64_t V = 0;  // rows of the embedding; 0: not known, the tokenizer's ids are all there are
  std::vector<int64_t> stop_ids;          // eos_token_id of generation_config.json and config.json
  std::optional<int64_t> bos_id, eos_id;  // config.json's
  std::string digest;                     // of all bytes read; "" for sources made by hand
};

class ModelText {
 public:
  // template_override: "" for the model's own templates, else as TemplateSet has it. `variables`:
  // object of names that every rendering sees (enable_thinking). BadInput for malformed files and
  // for an EOS token beyond the embedding (other tokens there are warned about: models are
  // published with a padding token that has no row); Usage for a built-in template whose tokens the
  // tokenizer lacks, and for a variable that is one of the conversation's own (messages, tools).
  explicit ModelText(const TextSources& sources, const std::string& template_override = "",
                     const Value& variables = {});

  const Tokenizer& tokenizer() const { return tokenizer_; }
  // The tokenizer's encode for a text that the model gets. BadInput, with the token and both sizes,
  // for an id beyond the embedding.
  Tokenizer::Encoding encode(std::string_view text, bool add_special_tokens) const;
  bool has_template() const { return !templates_.is_empty(); }
  // "chat_template.jinja", "tokenizer_config.json", the override; "" when there is none.
  const std::string& template_origin() const { return templates_.origin(); }
  // The template as an adapter must bring it along to be used as it was trained: one file, with the
  // `variables` as defaults of its names; "" where the model's own files say it all. Usage for
  // variables of a model with several templates.
  std::string adapter_template() const;
  // Whether a rendering may hold today's date (strftime_now).
  bool renders_date() const { return templates_.asks_date(); }
  // Changes with everything that may change a rendering or an id; "" for sources made by hand.
  const std::string& fingerprint() const { return fingerprint_; }
  // The file it comes from: "tokenizer.json", "tokenizer.model", ...
  const std::string& tokenizer_file() const { return tokenizer_file_; }
  // Rows of the embedding: every id that encode gives is below.
  int64_t V() const { return V_; }
  // Every id a reply ends on, the tokenizer's EOS and the template's end-of-turn token among them.
  const std::vector<int64_t>& stop_ids() const { return stop_ids_; }
  bool is_stop(int64_t id) const;
  // The tokenizer's end-of-sequence token, else config.json's.
  std::optional<int32_t> eos_id() const { return eos_id_; }

  // The conversation as the template writes it, as transformers' apply_chat_template does it:
  // members of a message that are null are left out, reasoning goes by all its names. messages:
  // array of {role, content, ...}; tools: array or null; `variables`: object or null, before those
  // of the model. The text is to be encoded with add_special_tokens = false: templates print BOS
  // themselves. Usage when there is no template, BadInput when it refuses the conversation.
  std::string render_chat(const Value& messages, const Value& tools, bool add_generation_prompt,
                          const Value& variables = {}) const;
  // The same with the byte spans of {% generation %} blocks.
  ChatTemplate::Rendered render_chat_spans(const Value& messages, const Value& tools,
                                           bool add_generation_prompt,
                                           const Value& variables = {}) const;

 private:
  void take_special_tokens(const TextSources& sources);
  void take_named_tokens(const TextSources& sources);
  void take_stop_ids(const TextSources& sources);
  void check_row(int32_t id) const;
  std::optional<int32_t> end_of_turn() const;
  Value context(const Value& messages, const Value& tools, bool add_generation_prompt,
                const Value& variables) const;

  std::string place_, tokenizer_file_;
  Tokenizer tokenizer_;
  TemplateSet templates_;
  std::string fingerprint_;
  Value given_variables_;  // the caller's
  Value variables_;       // of every rendering: {"bos_token": "<s>", ...} and what the caller added
  Value special_tokens_;  // {"bos_token": "<s>", ...}
  std::optional<int32_t> eos_id_;
  std::vector<int64_t> stop_ids_;
  int64_t V_ = 0;
};

// Reads the tokenizer (formats/tokenizer_files.h), tokenizer_config.json, special_tokens_map.json,
// the templates and, where it is there, config.json: the folder needs no weights. stop_ids stay
// empty.
TextSources read_text_sources(const fs::path& folder);

// The text of a model that is trained or run: every id is checked against its embedding.
ModelText load_model_text(const ModelFolder& folder, const std::string& template_override = "",
                          const Value& variables = {});

}  // namespace lema
