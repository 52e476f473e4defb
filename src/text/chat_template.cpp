// The public face of the template engine: parse once, one interpreter for each render.
#include "text/chat_template.h"

#include "text/jinja_eval.h"
#include "text/jinja_parser.h"
#include "text/unicode.h"

namespace lema {

ChatTemplate::ChatTemplate(std::string source) : source_(std::move(source)) {
  if (static_cast<int64_t>(source_.size()) > jinja::kMaxSource)
    fail(ErrorCode::BadInput, "chat template: line 1: {} bytes, at most {}", source_.size(),
         jinja::kMaxSource);
  if (!is_valid_utf8(source_)) fail(ErrorCode::BadInput, "chat template: line 1: not valid UTF-8");
  tree_ = std::make_unique<const jinja::Template>(jinja::parse_template(source_));
}

ChatTemplate::ChatTemplate(ChatTemplate&& other) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&& other) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

std::string ChatTemplate::render(const Value& context) const {
  return jinja::Interpreter(*tree_, context, false).run();
}

ChatTemplate::Rendered ChatTemplate::render_spans(const Value& context) const {
  jinja::Interpreter interpreter(*tree_, context, true);
  Rendered out;
  out.text = interpreter.run();
  out.generated = interpreter.spans();
  out.has_generation_blocks = tree_->has_generation;
  return out;
}

}  // namespace lema
