// Exact label masks by prefix difference, self-checked on every row.
#include "data/chat_mask.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "core/error.h"

namespace lema {
namespace {

// Bytes [first, second) of the rendered text.
using Span = std::pair<size_t, size_t>;

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

bool is_answer(const Value& message) { return message.find("role")->as_string() == "assistant"; }

// Which messages are answers that carry a loss.
std::vector<uint8_t> trained_messages(const Dialogue& dialogue, const std::string& train_on) {
  const Value::Array& messages = dialogue.messages.as_array();
  std::vector<uint8_t> trained(messages.size());
  size_t last = messages.size();
  for (size_t i = 0; i < messages.size(); ++i) {
    if (!is_answer(messages[i])) continue;
    trained[i] = dialogue.untrained.empty() || !dialogue.untrained[i];
    last = i;
  }
  if (train_on == "last" && last < messages.size()) std::fill_n(trained.begin(), last, uint8_t{0});
  return trained;
}

Value::Array first_messages(const Dialogue& dialogue, size_t count) {
  const Value::Array& messages = dialogue.messages.as_array();
  return Value::Array(messages.begin(), messages.begin() + static_cast<std::ptrdiff_t>(count));
}

// The bytes of the answer `i`. The tokens that a chat would see before it must be the first tokens
// of the whole conversation.
Span turn_span(const Dialogue& dialogue, size_t i, const std::string& rendered,
               const Tokenizer::Encoding& whole, const ModelText& text) {
  const auto render = [&](size_t count, bool add_generation_prompt) {
    return text.render_chat(first_messages(dialogue, count), dialogue.tools, add_generation_prompt,
                            dialogue.variables);
  };
  const std::string prompt = render(i, true), full = render(i + 1, false);
  if (!full.starts_with(prompt))
    fail(ErrorCode::BadInput, "messages[{}]: the template does not continue its own prompt: {}", i,
         difference(prompt, full));
  if (!rendered.starts_with(full))
    fail(ErrorCode::BadInput,
         "messages[{}]: the template writes this turn differently once others follow: {} (give the "
         "conversations up to each answer as rows of their own, with data.train_on = last)",
         i, difference(full, rendered));
  if (!is_token_prefix(text.tokenizer().encode(prompt, false), whole, prompt.size()))
    fail(ErrorCode::BadInput,
         "messages[{}]: the prompt before it has other tokens alone than with the answer after it "
         "(does the answer "
         "start with white space, or the template's prompt end in it?)",
         i);
  return {prompt.size(), full.size()};
}

// Under "completions" every answer is checked, trained or not.
std::vector<Span> prefix_difference(const Dialogue& dialogue, const std::vector<uint8_t>& trained,
                                    bool last_only, const std::string& rendered,
                                    const Tokenizer::Encoding& whole, const ModelText& text) {
  std::vector<Span> spans;
  for (size_t i = 0; i < trained.size(); ++i) {
    if (!trained[i] && (last_only || !is_answer(dialogue.messages.as_array()[i]))) continue;
    const Span span = turn_span(dialogue, i, rendered, whole, text);
    if (trained[i]) spans.push_back(span);
  }
  return spans;
}

// Drops the blocks of answers that carry no loss.
void drop_untrained(ChatTemplate::Rendered& rendered, const Dialogue& dialogue,
                    const std::vector<uint8_t>& trained, const ModelText& text) {
  const auto blocks = [&](size_t messages) -> size_t {
    if (messages == 0) return 0;
    if (messages == trained.size()) return rendered.generated.size();
    return text
        .render_chat_spans(first_messages(dialogue, messages), dialogue.tools, false,
                           dialogue.variables)
        .generated.size();
  };
  std::vector<uint8_t> dropped(rendered.generated.size());
  for (size_t i = 0; i < trained.size(); ++i) {
    if (trained[i] || !is_answer(dialogue.messages.as_array()[i])) continue;
    const size_t before = blocks(i), after = blocks(i + 1);
    if (after < before || after > dropped.size())
      fail(ErrorCode::BadInput,
           "messages[{}]: the template's {{% generation %}} blocks are not one after another for "
           "each turn, so this one cannot be left out of the loss",
           i);
    std::fill(dropped.begin() + static_cast<std::ptrdiff_t>(before),
              dropped.begin() + static_cast<std::ptrdiff_t>(after), uint8_t{1});
  }
  size_t block = 0;
  std::erase_if(rendered.generated, [&](const auto&) { return dropped[block++] != 0; });
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

bool is_token_prefix(const Tokenizer::Encoding& alone, const Tokenizer::Encoding& whole,
                     size_t bytes) {
  const auto count_below = [&](const Tokenizer::Encoding& encoding) {
    return std::count_if(encoding.begins.begin(), encoding.begins.end(),
                         [&](int64_t begin) { return static_cast<size_t>(begin) < bytes; });
  };
  const auto count = count_below(alone);
  return count == count_below(whole) &&
         std::equal(alone.ids.begin(), alone.ids.begin() + count, whole.ids.begin()) &&
         (count == std::ssize(whole.ids) ||
          static_cast<size_t>(whole.begins[static_cast<size_t>(count)]) == bytes);
}

ChatEncoding encode_chat(const Dialogue& dialogue, bool add_generation_prompt,
                         const std::string& train_on, const ModelText& text) {
  ChatTemplate::Rendered rendered = text.render_chat_spans(
      dialogue.messages, dialogue.tools, add_generation_prompt, dialogue.variables);
  Tokenizer::Encoding whole = text.tokenizer().encode(rendered.text, false);
  std::vector<Span> spans;
  if (train_on == "all") {
    spans = {{0, rendered.text.size()}};
  } else {
    const std::vector<uint8_t> trained = trained_messages(dialogue, train_on);
    if (rendered.has_generation_blocks) {
      drop_untrained(rendered, dialogue, trained, text);
      spans = generation_blocks(rendered, whole);
    } else {
      spans = prefix_difference(dialogue, trained, train_on == "last", rendered.text, whole, text);
    }
  }

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
