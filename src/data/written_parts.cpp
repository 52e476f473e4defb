// Looks for each part of a conversation in its rendering, in the order of the messages.
#include "data/written_parts.h"

#include <algorithm>

#include "core/error.h"
#include "formats/json.h"
#include "text/jinja_unicode.h"

namespace lema {
namespace {

std::string_view stripped(std::string_view text) { return jinja::lstrip(jinja::rstrip(text)); }

// The member's text without white space around it; "" when it is none.
std::string_view text_of(const Value& message, std::string_view key) {
  const Value* value = message.find(key);
  return value && value->is_string() ? stripped(value->as_string()) : std::string_view();
}

class Finder {
 public:
  explicit Finder(std::string_view rendered) : rendered_(rendered) {}

  // Text at or after the last one found, else anywhere: a template may move a system prompt.
  bool finds(std::string_view text) {
    const size_t found = jinja::find_first(rendered_, text, at_);
    if (found == rendered_.npos) return jinja::find_first(rendered_, text) != rendered_.npos;
    at_ = found + text.size();
    return true;
  }

  // Also as a JSON string, as templates write the results of tools.
  bool finds_quoted(std::string_view text) {
    if (finds(text)) return true;
    const std::string quoted = dump_json(Value(text), -1);
    return finds(std::string_view(quoted).substr(1, quoted.size() - 2));
  }

 private:
  std::string_view rendered_;
  size_t at_ = 0;
};

// "get" of {"function": {"name": "get"}} or {"name": "get"}.
std::string_view function_name(const Value& call) {
  const Value* function = call.find("function");
  return text_of(function && function->is_object() ? *function : call, "name");
}

bool finds_names(Finder& finder, const Value* list) {
  if (!list || !list->is_array()) return true;
  return std::all_of(list->as_array().begin(), list->as_array().end(), [&](const Value& item) {
    return !item.is_object() || finder.finds(function_name(item));
  });
}

// The answer itself: what stands before the end of the reasoning, templates take out or apart.
std::string_view answer_text(std::string_view content) {
  constexpr std::string_view kEnd = "</think>";
  const size_t end = content.rfind(kEnd);
  return end == content.npos ? content : stripped(content.substr(end + kEnd.size()));
}

[[noreturn]] void refuse(size_t i, const char* what) {
  fail(
      ErrorCode::BadInput,
      "messages[{}]: the chat template does not write {} (set data.chat_template to one that does)",
      i, what);
}

}  // namespace

void check_written(const Dialogue& dialogue, const std::vector<uint8_t>& trained,
                   std::string_view rendered, Remarks& remarks) {
  Finder tools(rendered), parts(rendered);
  if (!finds_names(tools, &dialogue.tools)) remarks.add(Remark::ToolsLost);
  const Value::Array& messages = dialogue.messages.as_array();
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].find("role")->as_string();
    const std::string_view content = text_of(messages[i], "content");
    if (role == "assistant") {
      if (!parts.finds(text_of(messages[i], "reasoning_content")))
        remarks.add(Remark::ReasoningLost);
      const bool answer = parts.finds(answer_text(content));
      const bool calls = finds_names(parts, messages[i].find("tool_calls"));
      if (trained[i] && !answer) refuse(i, "this answer");
      if (trained[i] && !calls) refuse(i, "the tool calls of this answer");
      if (!answer || !calls) remarks.add(Remark::TurnLost);
    } else if (role == "user") {
      if (!parts.finds(content)) refuse(i, "this message");
    } else if (!parts.finds_quoted(content)) {
      remarks.add(role == "tool" ? Remark::TurnLost : Remark::SystemLost);
    }
  }
}

}  // namespace lema
