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

// Where parts stand in the rendering: each message is sought behind the content of those before it.
class Finder {
 public:
  explicit Finder(std::string_view rendered) : rendered_(rendered) {}

  void next_message() { at_ = end_; }
  bool finds(std::string_view text) const { return position(text) != rendered_.npos; }
  bool finds_content(std::string_view text) {
    const size_t found = position(text);
    if (found != rendered_.npos) end_ = found + text.size();
    return found != rendered_.npos;
  }
  // A template may put a system prompt anywhere.
  bool finds_anywhere(std::string_view text) const {
    return jinja::find_first(rendered_, text) != rendered_.npos;
  }
  // Also as a JSON string, as templates write the results of tools.
  bool finds_quoted(std::string_view text) const {
    const std::string quoted = dump_json(Value(text), -1);
    return finds(text) || finds(std::string_view(quoted).substr(1, quoted.size() - 2));
  }

 private:
  size_t position(std::string_view text) const { return jinja::find_first(rendered_, text, at_); }
  std::string_view rendered_;
  size_t at_ = 0, end_ = 0;
};

// {"name": ..} of {"function": {..}} or of the item itself.
const Value& function_of(const Value& item) {
  const Value* function = item.find("function");
  return function && function->is_object() ? *function : item;
}

// Every value of a call's arguments; an object that was printed as Python prints it, {'a': True},
// is not found.
bool finds_arguments(const Finder& finder, const Value& arguments) {
  if (arguments.is_string()) return finder.finds_quoted(stripped(arguments.as_string()));
  if (arguments.is_array())
    return std::all_of(arguments.as_array().begin(), arguments.as_array().end(),
                       [&](const Value& item) { return finds_arguments(finder, item); });
  if (!arguments.is_object()) return finder.finds(dump_json(arguments, -1));
  return std::all_of(
      arguments.as_object().begin(), arguments.as_object().end(), [&](const auto& member) {
        const auto& [key, value] = member;
        const bool is_python =
            finder.finds(fmt::format("'{}': ", key)) && !finder.finds(fmt::format("\"{}\"", key));
        return !is_python && finds_arguments(finder, value);
      });
}

bool finds_tools(const Finder& finder, const Value& tools) {
  return !tools.is_array() ||
         std::all_of(tools.as_array().begin(), tools.as_array().end(), [&](const Value& tool) {
           return finder.finds(text_of(function_of(tool), "name"));
         });
}

bool finds_calls(const Finder& finder, const Value& message) {
  const Value* calls = message.find("tool_calls");
  if (!calls || !calls->is_array()) return true;
  return std::all_of(calls->as_array().begin(), calls->as_array().end(), [&](const Value& call) {
    const Value& function = function_of(call);
    const Value* arguments = function.find("arguments");
    return finder.finds(text_of(function, "name")) &&
           (!arguments || finds_arguments(finder, *arguments));
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
  if (!finds_tools(tools, dialogue.tools)) remarks.add(Remark::ToolsLost);
  const Value::Array& messages = dialogue.messages.as_array();
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].find("role")->as_string();
    const std::string_view content = text_of(messages[i], "content");
    parts.next_message();
    if (role == "assistant") {
      if (!parts.finds(stripped(reasoning_of(messages[i])))) remarks.add(Remark::ReasoningLost);
      const bool answer = parts.finds_content(answer_text(content));
      const bool calls = finds_calls(parts, messages[i]);
      if (trained[i] && !answer) refuse(i, "this answer");
      if (trained[i] && !calls) refuse(i, "the tool calls of this answer");
      if (!answer || !calls) remarks.add(Remark::TurnLost);
    } else if (role == "user") {
      if (!parts.finds_content(content)) refuse(i, "this message");
    } else if (role == "tool") {
      if (!parts.finds_quoted(content)) remarks.add(Remark::TurnLost);
    } else if (!parts.finds_anywhere(content)) {
      remarks.add(Remark::SystemLost);
    }
  }
}

}  // namespace lema
