// A model's chat template: Jinja source that turns messages into the text the model was trained on.
// Rendered by the data readers (chat rows), `lema tokenize --chat` and `lema chat`.
//
// The language is jinja2's as transformers sets it up (immutable sandbox, trim_blocks,
// lstrip_blocks, loop controls,
// {% generation %}, tojson, raise_exception, strftime_now). A template is untrusted: it sees data
// only, and text/jinja_value.h lists what it may cost.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/value.h"

namespace lema {

namespace jinja {
struct Template;
}

// Immutable after construction. Threads: render is concurrent.
class ChatTemplate {
 public:
  // Parses; BadInput "chat template: line L: ..." on a syntax error, an unsupported construct or
  // too large a source.
  explicit ChatTemplate(std::string source);
  ChatTemplate(ChatTemplate&& other) noexcept;
  ChatTemplate& operator=(ChatTemplate&& other) noexcept;
  ~ChatTemplate();

  const std::string& source() const { return source_; }

  // `context` is an object: messages, tools, add_generation_prompt, bos_token, eos_token and any
  // other names; a name that is not there is undefined, which differs from null. BadInput "chat
  // template: line L: ..." with the text of raise_exception, a limit reached or a type error.
  std::string render(const Value& context) const;

  struct Rendered {
    std::string text;
    std::vector<std::pair<int64_t, int64_t>>
        generated;                       // byte spans [begin, end) of text, ascending
    bool has_generation_blocks = false;  // in the template, even if none was reached
  };
  // As render, with the spans that {% generation %} blocks wrote; a block inside another adds
  // nothing. BadInput also when a block is reached inside a macro, set, call or filter block, where
  // its place is not known.
  Rendered render_spans(const Value& context) const;

 private:
  std::string source_;
  std::unique_ptr<const jinja::Template> tree_;
};

}  // namespace lema
