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

// A rendered conversation and the stretches of it that are trained.
struct RenderedChat {
  std::string rendered;
  Tokenizer::Encoding whole;
  size_t limit = std::string::npos;  // the first byte that the row has no room for
  std::vector<Span> spans;           // trained
  Remarks remarks;
  std::vector<size_t> ends;  // of trained answers, with what the template writes after each
};

std::string render_first(const Dialogue& dialogue, size_t count, bool add_generation_prompt,
                         const ModelText& text) {
  return text.render_chat(first_messages(dialogue, count), dialogue.tools, add_generation_prompt,
                          dialogue.variables);
}

// Whether the prompt alone has the tokens that it has in the whole. What stands before a special
// token has no part in the tokens after it: the text from the last one on says it, else all of it.
bool keeps_tokens(const std::string& prompt, const Tokenizer::Encoding& whole,
                  const Tokenizer& tokenizer) {
  const auto bytes = static_cast<int64_t>(prompt.size());
  const auto behind = std::lower_bound(whole.begins.begin(), whole.begins.end(), bytes);
  // A special token may end with the prompt: it is sought before the token that does.
  auto from = behind - whole.begins.begin() - 2;
  while (from > 0 && !tokenizer.is_special(whole.ids[static_cast<size_t>(from)])) --from;
  if (from > 0) {
    const int64_t cut = whole.begins[static_cast<size_t>(from)];
    Tokenizer::Encoding tail;
    const auto last = behind == whole.begins.end() ? behind : behind + 1;
    for (auto at = whole.begins.begin() + from; at != last; ++at) {
      tail.begins.push_back(*at - cut);
      tail.ids.push_back(whole.ids[static_cast<size_t>(at - whole.begins.begin())]);
    }
    const std::string_view rest = std::string_view(prompt).substr(static_cast<size_t>(cut));
    if (is_token_prefix(tokenizer.encode(rest, false), tail, rest.size())) return true;
  }
  return is_token_prefix(tokenizer.encode(prompt, false), whole, prompt.size());
}

void check_tokens(const std::string& prompt, size_t i, const Tokenizer::Encoding& whole,
                  const ModelText& text) {
  if (!keeps_tokens(prompt, whole, text.tokenizer()))
    fail(ErrorCode::BadInput,
         "messages[{}]: the prompt before it has other tokens alone than with the answer after it "
         "(does the answer start with white space, or the template's prompt end in it?)",
         i);
}

[[noreturn]] void refuse_prompt(size_t i, const std::string& prompt, const std::string& whole) {
  if (i == 0)
    fail(ErrorCode::BadInput,
         "messages[0]: the conversation begins with the assistant, which the template writes "
         "otherwise than its own prompt: {}",
         difference(prompt, whole));
  fail(
      ErrorCode::BadInput,
      "messages[{}]: the template does not continue its own prompt: {} (what a chat sees could not "
      "be trained; set data.chat_template or data.chat_template_kwargs)",
      i, difference(prompt, whole));
}

// The byte of the whole where the turns up to messages[i], rendered as `full`, end: what a template
// writes after the last message only, special tokens and white space, is left out.
size_t turn_end(size_t i, const std::string& full, size_t prompt, const RenderedChat& chat,
                const ModelText& text) {
  if (chat.rendered.starts_with(full)) return full.size();
  const Tokenizer::Encoding alone = text.tokenizer().encode(full, false);
  const std::vector<int64_t>& begins = chat.whole.begins;
  const auto common =
      std::mismatch(full.begin(), full.end(), chat.rendered.begin(), chat.rendered.end()).first -
      full.begin();
  auto at = std::upper_bound(begins.begin(), begins.end(), common);
  while (at != begins.begin() &&
         !std::binary_search(alone.begins.begin(), alone.begins.end(), *--at))
    continue;
  const auto end = at == begins.end() ? size_t{0} : static_cast<size_t>(*at);
  bool is_tail = end > prompt && chat.rendered.ends_with(full.substr(end));
  for (size_t t = 0; t < alone.ids.size(); ++t)
    if (std::cmp_greater_equal(alone.begins[t], end) && !text.tokenizer().is_special(alone.ids[t]))
      is_tail = false;
  if (!is_tail)
    fail(ErrorCode::BadInput,
         "messages[{}]: the template writes this turn differently once others follow: {} (with "
         "data.train_on = each, every answer becomes a row of its own)",
         i, difference(full, chat.rendered));
  return end;
}

// The bytes of every trained answer. Those that begin at or after byte `limit` are one span without
// an end of their own.
void prefix_difference(const Dialogue& dialogue, const std::vector<uint8_t>& trained,
                       RenderedChat& chat, const ModelText& text) {
  for (size_t i = 0; i < trained.size(); ++i) {
    if (!trained[i]) continue;
    const std::string prompt = render_first(dialogue, i, true, text);
    if (prompt.size() >= chat.limit) {
      chat.spans.emplace_back(chat.limit, chat.rendered.size());
      return;
    }
    const std::string full = render_first(dialogue, i + 1, false, text);
    if (!full.starts_with(prompt)) refuse_prompt(i, prompt, full);
    const size_t end = turn_end(i, full, prompt.size(), chat, text);
    check_tokens(prompt, i, chat.whole, text);
    chat.spans.emplace_back(prompt.size(), end);
    chat.ends.push_back(end);
  }
}

// Whether the prompt of answer `i`, whose block begins at byte `block`, is the start of the
// conversation in bytes and in tokens; false when it parts from it inside the block. BadInput when
// it does so before.
bool holds_prompt(const Dialogue& dialogue, size_t i, const std::string& prompt, size_t block,
                  const RenderedChat& chat, const ModelText& text) {
  const size_t fixed = std::min(prompt.size(), block);
  if (chat.rendered.starts_with(prompt)) {
    if (keeps_tokens(prompt, chat.whole, text.tokenizer())) return true;
  } else {
    const std::string history = render_first(dialogue, i, false, text);
    if (!prompt.starts_with(history) || fixed < history.size() ||
        prompt.compare(0, fixed, chat.rendered, 0, fixed) != 0)
      refuse_prompt(i, prompt, chat.rendered);
  }
  check_tokens(prompt.substr(0, fixed), i, chat.whole, text);
  return false;
}

// Checks the answers of a template with {% generation %} blocks. What its prompt adds inside a
// block, published training templates leave out where an answer has no reasoning: that is told.
void check_prompts(const Dialogue& dialogue, const std::vector<uint8_t>& trained,
                   const ChatTemplate::Rendered& rendered, RenderedChat& chat,
                   const ModelText& text) {
  for (size_t i = 0; i < trained.size(); ++i) {
    if (!trained[i]) continue;
    const std::string prompt = render_first(dialogue, i, true, text);
    if (prompt.size() >= chat.limit) return;
    const auto common =
        std::mismatch(prompt.begin(), prompt.end(), chat.rendered.begin(), chat.rendered.end())
            .first -
        prompt.begin();
    const auto block = std::find_if(
        rendered.generated.begin(), rendered.generated.end(),
        [&](const auto& span) { return span.first < span.second && span.second > common; });
    const size_t begin =
        block == rendered.generated.end() ? std::string::npos : static_cast<size_t>(block->first);
    if (begin < prompt.size() && begin < render_first(dialogue, i, false, text).size())
      fail(ErrorCode::BadInput,
           "messages[{}]: a {{% generation %}} block begins before the answer, at byte {} of the "
           "rendered text",
           i, begin);
    if (!holds_prompt(dialogue, i, prompt, begin, chat, text)) chat.remarks.add(Remark::Unprompted);
  }
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
void take_blocks(const ChatTemplate::Rendered& rendered, RenderedChat& chat) {
  const std::vector<int64_t>& begins = chat.whole.begins;
  for (const auto& [begin, end] : rendered.generated) {
    if (begin == end) continue;
    if (!std::binary_search(begins.begin(), begins.end(), begin))
      fail(ErrorCode::BadInput,
           "a {{% generation %}} block begins inside a token, at byte {} of the rendered text",
           begin);
    chat.spans.emplace_back(begin, end);
    chat.ends.push_back(static_cast<size_t>(end));
  }
}

// The stop token that ends the text before byte `end`, white space after it apart; -1: none.
int64_t stop_before(size_t end, const RenderedChat& chat, const ModelText& text) {
  const std::vector<int64_t>& begins = chat.whole.begins;
  const auto behind = std::lower_bound(begins.begin(), begins.end(), static_cast<int64_t>(end));
  for (auto t = behind - begins.begin() - 1; t > 0; --t) {
    const auto begin = static_cast<size_t>(begins[static_cast<size_t>(t)]);
    const std::string_view bytes = std::string_view(chat.rendered).substr(begin, end - begin);
    if (bytes.find_first_not_of(" \t\r\n") != bytes.npos)
      return text.is_stop(chat.whole.ids[static_cast<size_t>(t)]) ? t : -1;
  }
  return -1;
}

// Under "all": the end of the first answer that ends with a stop token, as far as the template lets
// ends be told.
void find_end(const Dialogue& dialogue, RenderedChat& chat, const ModelText& text) {
  const Value::Array& messages = dialogue.messages.as_array();
  for (size_t i = 0; i < messages.size(); ++i) {
    if (!is_answer(messages[i])) continue;
    const std::string full = render_first(dialogue, i + 1, false, text);
    const size_t end = chat.rendered.starts_with(full) ? full.size()
                       : i + 1 == messages.size()      ? chat.rendered.size()
                                                       : 0;
    if (stop_before(end, chat, text) > 0) chat.ends = {end};
    if (!chat.ends.empty() || full.size() >= chat.limit) return;
  }
}

int64_t first_stop(RenderedChat& chat, const std::vector<uint8_t>& trained, const ModelText& text) {
  int64_t first = -1;
  for (const size_t end : chat.ends) {
    const int64_t t = stop_before(end, chat, text);
    if (t <= 0 || !trained[static_cast<size_t>(t)])
      chat.remarks.add(Remark::EndUntrained);
    else if (first < 0)
      first = t;
  }
  return first;
}

ChatEncoding encode(const Dialogue& dialogue, bool add_generation_prompt,
                    const std::string& train_on, const ModelText& text, const LengthRule& rule) {
  ChatTemplate::Rendered rendered = text.render_chat_spans(
      dialogue.messages, dialogue.tools, add_generation_prompt, dialogue.variables);
  RenderedChat chat;
  chat.rendered = rendered.text;
  chat.whole = text.encode(chat.rendered, false);
  const size_t count = chat.whole.ids.size();
  const bool too_long = std::cmp_greater(count, rule.max_tokens);
  ChatEncoding encoding;
  encoding.trained.assign(count, 0);
  if (!too_long || rule.truncates) {
    const std::vector<uint8_t> trained = trained_messages(dialogue, train_on);
    if (too_long)
      chat.limit = static_cast<size_t>(chat.whole.begins[static_cast<size_t>(rule.max_tokens)]);
    if (train_on == "all") {
      chat.spans = {{0, chat.rendered.size()}};
      find_end(dialogue, chat, text);
    } else if (rendered.has_generation_blocks) {
      check_prompts(dialogue, trained, rendered, chat, text);
      drop_untrained(rendered, dialogue, trained, text);
      take_blocks(rendered, chat);
    } else {
      prefix_difference(dialogue, trained, chat, text);
    }
    check_written(dialogue, trained, chat.rendered, chat.remarks);
    size_t t = 0;
    for (const auto& [begin, end] : chat.spans)
      for (; t < count && static_cast<size_t>(chat.whole.begins[t]) < end; ++t)
        encoding.trained[t] = static_cast<size_t>(chat.whole.begins[t]) >= begin;
    encoding.first_stop = first_stop(chat, encoding.trained, text);
    encoding.remarks = chat.remarks;
  }
  encoding.text = std::move(chat.rendered);
  encoding.ids = std::move(chat.whole.ids);
  return encoding;
}

// encode(conversation) with the arguments of calls as objects, as most templates want them, else as
// the text that OpenAI's format has.
template <typename Encode>
auto in_either_form(const Dialogue& dialogue, const Encode& encode) {
  if (dialogue.as_given.is_null()) return encode(dialogue);
  try {
    return encode(dialogue);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::BadInput) throw;
    Dialogue given = dialogue;
    given.messages = std::exchange(given.as_given, Value());
    try {
      return encode(given);
    } catch (const Error&) {
    }
    throw;
  }
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
                         const std::string& train_on, const ModelText& text,
                         const LengthRule& rule) {
  return in_either_form(dialogue, [&](const Dialogue& form) {
    return encode(form, add_generation_prompt, train_on, text, rule);
  });
}

std::vector<int32_t> encode_prompt(const Dialogue& dialogue, const ModelText& text) {
  return in_either_form(dialogue, [&](const Dialogue& form) {
    const std::string rendered = text.render_chat(form.messages, form.tools, true, form.variables);
    Remarks unsaid;
    check_written(form, trained_messages(form, "completions"), rendered, unsaid);
    return text.encode(rendered, false).ids;
  });
}

}  // namespace lema
