// Exact label masks by prefix difference, self-checked on every row.
#include "data/chat_mask.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "core/error.h"

namespace lema {
namespace {

constexpr std::array<std::string_view, 5> kRoles = {"system", "developer", "user", "assistant",
                                                    "tool"};

// Bytes [first, second) of the rendered text.
using Span = std::pair<size_t, size_t>;

void check_message(const Value& message, const std::string& place) {
  if (!message.is_object())
    fail(ErrorCode::BadInput, "{}: found {}, expected object", place, name(message.kind()));
  const Value* role = message.find("role");
  if (!role) fail(ErrorCode::BadInput, "{}: no field \"role\"", place);
  if (!role->is_string())
    fail(ErrorCode::BadInput, "{}.role: found {}, expected string", place, name(role->kind()));
  if (std::find(kRoles.begin(), kRoles.end(), role->as_string()) == kRoles.end())
    fail(ErrorCode::BadInput, "{}.role: found \"{}\", expected one of {}", place,
         escaped(role->as_string()), fmt::join(kRoles, ", "));
  const Value* content = message.find("content");
  if (content && content->is_string()) return;
  // An assistant's message may be tool calls alone.
  const Value* calls = message.find("tool_calls");
  if ((!content || content->is_null()) && role->as_string() == "assistant" && calls &&
      calls->is_array())
    return;
  if (!content) fail(ErrorCode::BadInput, "{}: no field \"content\"", place);
  fail(ErrorCode::BadInput, "{}.content: found {}, expected string", place, name(content->kind()));
}

bool continues_character(std::string_view text, size_t at) {
  return at < text.size() && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80;
}

// About 40 bytes of `text` from `at`, whole characters, for messages.
std::string excerpt(std::string_view text, size_t at) {
  size_t end = std::min(at + 40, text.size());
  while (continues_character(text, end)) ++end;
  return escaped(text.substr(at, end - at));
}

// The place where a rendering stops being the start of the longer one, for messages.
std::string difference(std::string_view start, std::string_view whole) {
  auto at = static_cast<size_t>(
      std::mismatch(start.begin(), start.end(), whole.begin(), whole.end()).first - start.begin());
  while (at > 0 && (continues_character(start, at) || continues_character(whole, at))) --at;
  return fmt::format("\"{}\" became \"{}\"", excerpt(start, at), excerpt(whole, at));
}

// The tokens that a chat would see before this answer are the first tokens of the whole
// conversation.
void check_prompt_tokens(std::string_view prompt, const Tokenizer::Encoding& whole,
                         const ModelText& text, size_t message) {
  const Tokenizer::Encoding alone = text.tokenizer().encode(prompt, false);
  const size_t count = alone.ids.size();
  const bool same =
      count <= whole.ids.size() &&
      std::equal(alone.ids.begin(), alone.ids.end(), whole.ids.begin()) &&
      (count == whole.ids.size() || static_cast<size_t>(whole.begins[count]) == prompt.size());
  if (!same)
    fail(ErrorCode::BadInput,
         "messages[{}]: the prompt before it has other tokens alone than with the answer after it "
         "(does the answer "
         "start with white space, or the template's prompt end in it?)",
         message);
}

std::vector<Span> prefix_difference(const Value& messages, const Value& tools,
                                    const std::string& rendered, const Tokenizer::Encoding& whole,
                                    const ModelText& text) {
  std::vector<Span> spans;
  Value::Array earlier;
  for (size_t i = 0; i < messages.as_array().size(); ++i) {
    const Value& message = messages.as_array()[i];
    const bool is_answer = message.find("role")->as_string() == "assistant";
    const std::string prompt = is_answer ? text.render_chat(earlier, tools, true) : "";
    earlier.push_back(message);
    if (!is_answer) continue;
    const std::string full = text.render_chat(earlier, tools, false);
    if (!full.starts_with(prompt))
      fail(ErrorCode::BadInput, "messages[{}]: the template does not continue its own prompt: {}",
           i, difference(prompt, full));
    if (!rendered.starts_with(full))
      fail(ErrorCode::BadInput,
           "messages[{}]: the template writes this turn differently once others follow: {}", i,
           difference(full, rendered));
    check_prompt_tokens(prompt, whole, text, i);
    spans.emplace_back(prompt.size(), full.size());
  }
  return spans;
}

// The template's own spans; each must begin where a token begins.
std::vector<Span> generation_blocks(const ChatTemplate::Rendered& rendered,
                                    const Tokenizer::Encoding& whole) {
  std::vector<Span> spans;
  for (const auto& [begin, end] : rendered.generated) {
    const auto first = static_cast<size_t>(begin), last = static_cast<size_t>(end);
    if (first == last) continue;
    const auto at =
        std::lower_bound(whole.begins.begin(), whole.begins.end(), first,
                         [](auto x, size_t wanted) { return static_cast<size_t>(x) < wanted; });
    if (at == whole.begins.end() || static_cast<size_t>(*at) != first)
      fail(ErrorCode::BadInput,
           "a {{% generation %}} block begins inside a token, at byte {} of the rendered text",
           first);
    spans.emplace_back(first, last);
  }
  return spans;
}

}  // namespace

void check_messages(const Value& messages) {
  if (!messages.is_array())
    fail(ErrorCode::BadInput, "messages: found {}, expected array", name(messages.kind()));
  if (messages.as_array().empty()) fail(ErrorCode::BadInput, "messages: the array is empty");
  for (size_t i = 0; i < messages.as_array().size(); ++i)
    check_message(messages.as_array()[i], fmt::format("messages[{}]", i));
}

ChatEncoding encode_chat(const Value& messages, const Value& tools, bool add_generation_prompt,
                         const std::string& train_on, const ModelText& text) {
  ChatTemplate::Rendered rendered = text.render_chat_spans(messages, tools, add_generation_prompt);
  Tokenizer::Encoding whole = text.tokenizer().encode(rendered.text, false);
  std::vector<Span> spans;
  if (train_on == "all")
    spans = {{0, rendered.text.size()}};
  else if (rendered.has_generation_blocks)
    spans = generation_blocks(rendered, whole);
  else
    spans = prefix_difference(messages, tools, rendered.text, whole, text);

  ChatEncoding encoding;
  encoding.trained.assign(whole.ids.size(), 0);
  size_t t = 0;
  for (const auto& [begin, end] : spans) {
    for (; t < whole.ids.size() && static_cast<size_t>(whole.begins[t]) < end; ++t)
      encoding.trained[t] = static_cast<size_t>(whole.begins[t]) >= begin;
  }
  encoding.text = std::move(rendered.text);
  encoding.ids = std::move(whole.ids);
  return encoding;
}

}  // namespace lema
