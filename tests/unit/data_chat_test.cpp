// Chat: which template a model has, what ends a reply, and label masks by position.
#include <algorithm>

#include "data/chat_mask.h"
#include "data/model_text.h"
#include "support/catch.h"
#include "support/message_of.h"
#include "support/tiny_text.h"

using namespace lema;
using namespace lema::testing;

namespace {

template <typename Call>
void expect_failure(Call call, const std::string& part, ErrorCode code = ErrorCode::BadInput) {
  const std::string message = message_of(code, call);
  INFO("message: " << message);
  INFO("wanted: " << part);
  CHECK(contains(message, part));
}

Value message(const char* role, const char* content) {
  return Value::Object{{"role", role}, {"content", content}};
}

const Value kTwoTurns = Value::Array{message("system", "be brief"), message("user", "hello"),
                                     message("assistant", "hello \xc3\xa4\xf0\x9f\x98\x80"),
                                     message("user", "<|im_end|> again"), message("assistant", "")};

// The trained tokens as text, turns separated by '|'.
std::string trained_text(const ChatEncoding& chat, const ModelText& text) {
  std::string out;
  std::vector<int32_t> run;
  for (size_t t = 0; t <= chat.ids.size(); ++t) {
    if (t < chat.ids.size() && chat.trained[t]) {
      run.push_back(chat.ids[t]);
    } else if (!run.empty()) {
      out += text.tokenizer().decode(run, false) + "|";
      run.clear();
    }
  }
  return out;
}

std::string trained(const Value& messages, const std::string& chat_template) {
  const ModelText text(tiny_sources(chat_template));
  return trained_text(encode_chat({messages, Value()}, false, "completions", text), text);
}

}  // namespace

TEST_CASE("an answer is trained with its end token and what follows up to the next message") {
  CHECK(trained(kTwoTurns, kChatMl) == "hello \xc3\xa4\xf0\x9f\x98\x80<|im_end|>\n|<|im_end|>\n|");
}

TEST_CASE("train_on all trains everything") {
  const ModelText text(tiny_sources());
  const ChatEncoding chat = encode_chat({kTwoTurns, Value()}, false, "all", text);
  CHECK(std::count(chat.trained.begin(), chat.trained.end(), 1) ==
        static_cast<int64_t>(chat.ids.size()));
  CHECK(text.tokenizer().decode(chat.ids, false) == chat.text);
}

TEST_CASE("the stop id inside a user's text is not trained: positions decide") {
  const ModelText text(tiny_sources());
  const ChatEncoding chat = encode_chat({kTwoTurns, Value()}, false, "completions", text);
  int64_t stops = 0, trained_stops = 0;
  for (size_t t = 0; t < chat.ids.size(); ++t) {
    stops += chat.ids[t] == kImEnd;
    trained_stops += chat.ids[t] == kImEnd && chat.trained[t];
  }
  CHECK(stops == 6);
  CHECK(trained_stops == 2);
}

TEST_CASE("generation blocks of a template are its mask") {
  const char* tagged =
      "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}"
      "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content "
      "}}<|im_end|>{% endif %}"
      "{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% "
      "endif %}";
  CHECK(trained(kTwoTurns, tagged) == "hello \xc3\xa4\xf0\x9f\x98\x80<|im_end|>|<|im_end|>|");
}

TEST_CASE("templates whose masks would not be what a chat sees are refused") {
  // Drops the first answer once another turn follows.
  const char* forgetful =
      "{% for m in messages %}{% if m.role != 'assistant' or loop.last %}"
      "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' }}{% endif %}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
  expect_failure([&] { trained(kTwoTurns, forgetful); },
                 "messages[2]: the template writes this turn differently");
  // Its prompt is not what it writes before an answer.
  const char* other_prompt =
      "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' }}{% "
      "endfor %}"
      "{% if add_generation_prompt %}{{ '<|im_start|>bot\\n' }}{% endif %}";
  expect_failure([&] { trained(kTwoTurns, other_prompt); },
                 "messages[2]: the template does not continue its own prompt: \"bot");
  // A prompt that ends in a space: " w" becomes one token.
  const char* space =
      "{% for m in messages %}{{ m.role + ': ' + m.content + '<|im_end|>' }}{% endfor %}"
      "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}";
  const Value world = Value::Array{message("user", "x"), message("assistant", "world")};
  expect_failure([&] { trained(world, space); }, "other tokens alone");
  const char* tagged_space =
      "{% for m in messages %}{{ m.role + ': ' }}{% generation %}{{ m.content }}<|im_end|>{% "
      "endgeneration %}"
      "{% endfor %}";
  expect_failure([&] { trained(world, tagged_space); }, "begins inside a token");
}

TEST_CASE("templates with generation blocks are checked against their own prompts") {
  const auto tagged = [](const std::string& prompt, const std::string& before) {
    return "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}" +
           before +
           "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}"
           "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}{% endif %}{% endfor %}"
           "{% if add_generation_prompt %}{{ '" +
           prompt + "' }}{% endif %}";
  };
  CHECK(trained(kTwoTurns, tagged("<|im_start|>assistant\\n", "")) ==
        "hello \xc3\xa4\xf0\x9f\x98\x80<|im_end|>|<|im_end|>|");
  expect_failure([&] { trained(kTwoTurns, tagged("<|im_start|>bot\\n", "")); },
                 "messages[2]: the template does not continue its own prompt: \"bot");
  // The prompt's own "\n" becomes another token where a second one and no text follow.
  expect_failure([&] { trained(kTwoTurns, tagged("<|im_start|>assistant\\n", "{{ '\\n' }}")); },
                 "messages[4]: the prompt before it has other tokens alone");
  // What the prompt opens inside the block may be missing: it is told.
  const char* thinking =
      "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}"
      "{% generation %}{{ '' if 'x' in m.content else '<t>' }}{{ m.content }}<|im_end|>"
      "{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<t>' }}{% endif %}";
  const ModelText thinks(tiny_sources(thinking));
  for (const char* answer : {"hello", "x"}) {
    const Value turn = Value::Array{message("user", "a"), message("assistant", answer)};
    const ChatEncoding chat = encode_chat({turn, Value()}, false, "completions", thinks);
    CHECK(chat.remarks.has(Remark::Unprompted) == (answer == std::string("x")));
    CHECK(chat.trained[chat.ids.size() - 1] == 1);
  }
  const Value turns = Value::Array{message("user", "a"), message("assistant", "x"),
                                   message("user", "b"), message("assistant", "hello")};
  CHECK(trained(turns, thinking) == "x<|im_end|>|<t>hello<|im_end|>|");
  // Only the last answer is asked under "last".
  const char* reasoning =
      "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}"
      "{{ '<t>' if loop.last else '' }}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
      "{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<t>' }}{% endif %}";
  const ModelText text(tiny_sources(reasoning));
  CHECK(encode_chat({kTwoTurns, Value()}, false, "completions", text)
            .remarks.has(Remark::Unprompted));
  const ChatEncoding last = encode_chat({kTwoTurns, Value()}, false, "last", text);
  CHECK_FALSE(last.remarks.has(Remark::Unprompted));
  CHECK(trained_text(last, text) == "<|im_end|>|");
}

TEST_CASE("a tail that the template writes after the last message belongs to no other turn") {
  const auto with_tail = [](const char* tail) {
    return fmt::format("{}{{% if not add_generation_prompt %}}{}{{% endif %}}", kChatMl, tail);
  };
  CHECK(trained(kTwoTurns, with_tail("<|endoftext|>")) ==
        "hello \xc3\xa4\xf0\x9f\x98\x80<|im_end|>\n|<|im_end|>\n<|endoftext|>|");
  // Words are no tail.
  expect_failure([&] { trained(kTwoTurns, with_tail("bye")); },
                 "messages[2]: the template writes this turn differently once others follow");
}

TEST_CASE("a block that covers the question is refused") {
  const char* all =
      "{% generation %}{% for m in messages %}{{ m.role + m.content + '<|im_end|>' }}{% endfor %}"
      "{% endgeneration %}";
  expect_failure([&] { trained(kTwoTurns, all); }, "block begins before the answer, at byte 0");
}

TEST_CASE("what the template leaves out of a conversation is refused or remarked") {
  const auto encode = [](const Value& messages, const Value& tools, const char* chat_template) {
    const ModelText text(tiny_sources(chat_template));
    return encode_chat({messages, tools}, false, "completions", text).remarks;
  };
  const Value call = Value::Array{Value::Object{
      {"function", Value::Object{{"name", "get"}, {"arguments", Value::Object{{"a", 1}}}}}}};
  Value caller = message("assistant", "");
  caller.set("tool_calls", call);
  Value thinker = message("assistant", "so");
  thinker.set("reasoning_content", "because");
  const Value question = message("user", "why");
  expect_failure(
      [&] {
        encode(Value::Array{question, caller}, Value(), kChatMl);
      },
      "messages[1]: the chat template does not write the tool calls of this answer");
  const char* deaf =
      "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content + '<|im_end|>' }}"
      "{% endif %}{% endfor %}";
  expect_failure(
      [&] {
        encode(Value::Array{question, thinker}, Value(), deaf);
      },
      "messages[0]: the chat template does not write this message");
  const char* dumb =
      "{% for m in messages %}{{ m.role }}: {% if m.role == 'user' %}{{ m.content }}{% endif %}"
      "<|im_end|>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
  expect_failure(
      [&] {
        encode(Value::Array{question, thinker}, Value(), dumb);
      },
      "messages[1]: the chat template does not write this answer");
  const char* brief =
      "{% for m in messages %}{% if m.role != 'system' and m.role != 'tool' %}{{ '<|im_start|>' + "
      "m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
  const Remarks lost =
      encode(Value::Array{message("system", "be brief"), question, thinker, message("tool", "42")},
             Value::Array{Value::Object{{"name", "get"}}}, brief);
  for (const Remark remark :
       {Remark::SystemLost, Remark::ToolsLost, Remark::ReasoningLost, Remark::TurnLost})
    CHECK(lost.has(remark));
  CHECK_FALSE(lost.has(Remark::EndUntrained));
  Value other_name = message("assistant", "so");
  other_name.set("thinking", "because");
  CHECK(encode(Value::Array{question, other_name}, Value(), kChatMl).has(Remark::ReasoningLost));
  // An answer is sought behind its question, which may say the same.
  expect_failure(
      [&] {
        encode(Value::Array{question, message("assistant", "why")}, Value(), dumb);
      },
      "messages[1]: the chat template does not write this answer");
  const Remarks whole = encode(kTwoTurns, Value(), kChatMl);
  for (size_t remark = 0; remark < kRemarkTexts.size(); ++remark) CHECK_FALSE(whole.has(remark));
}

TEST_CASE("an answer without a trained end is remarked") {
  const char* late =
      "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
      "{% if loop.last %}<|im_end|>{% endif %}{% endgeneration %}{% else %}{{ m.content }} "
      "{% endif %}{% endfor %}";
  const ModelText text(tiny_sources(late));
  const ChatEncoding chat = encode_chat({kTwoTurns, Value()}, false, "completions", text);
  CHECK(chat.remarks.has(Remark::EndUntrained));
  CHECK(chat.first_stop > 0);
}

TEST_CASE("a template that wants the arguments of a call as text gets them as text") {
  const Value row = Value::Object{
      {"messages",
       Value::Array{
           message("user", "x"),
           Value::Object{
               {"role", "assistant"},
               {"content", Value()},
               {"tool_calls", Value::Array{Value::Object{
                                  {"function", Value::Object{{"name", "get"},
                                                             {"arguments", "{\"a\": 1}"}}}}}}}}}};
  const auto rendered = [&](const char* arguments) {
    const ModelText text(tiny_sources(
        std::string("{% for m in messages %}{% if m.tool_calls %}{% generation %}{{ "
                    "m.tool_calls[0].function.name + ' ' + ") +
        arguments +
        " }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"));
    return encode_chat(chat_dialogue(row), false, "completions", text).text;
  };
  CHECK(rendered("m.tool_calls[0].function.arguments") == "xget {\"a\": 1}<|im_end|>");
  CHECK(rendered("(m.tool_calls[0].function.arguments | tojson)") == "xget {\"a\": 1}<|im_end|>");
  // Printed as Python prints an object, it would be no JSON.
  CHECK(rendered("(m.tool_calls[0].function.arguments | string)") == "xget {\"a\": 1}<|im_end|>");
  expect_failure([&] { rendered("'nothing'"); }, "does not write the tool calls of this answer");
}

TEST_CASE("a generation prompt at the end is not trained") {
  const ModelText text(tiny_sources());
  const Value question = Value::Array{message("user", "hello")};
  const ChatEncoding chat = encode_chat({question, Value()}, true, "completions", text);
  CHECK(chat.text == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n");
  CHECK(trained_text(chat, text).empty());
}

TEST_CASE("which template a model has") {
  TextSources sources = tiny_sources("");
  CHECK_FALSE(ModelText(sources).has_template());
  CHECK(ModelText(sources).template_origin().empty());
  const Value messages = Value::Array{message("user", "x")};
  expect_failure([&] { ModelText(sources).render_chat(messages, Value(), false); },
                 "no chat template", ErrorCode::Usage);

  sources.tokenizer_config->set("chat_template", "config");
  CHECK(ModelText(sources).render_chat(messages, Value(), false) == "config");
  const Value list = Value::Array{Value::Object{{"name", "tool_use"}, {"template", "tools"}},
                                  Value::Object{{"name", "default"}, {"template", "plain"}}};
  sources.tokenizer_config->set("chat_template", list);
  const Value tools = Value::Array{Value::Object{{"type", "function"}}};
  CHECK(ModelText(sources).render_chat(messages, Value(), false) == "plain");
  CHECK(ModelText(sources).render_chat(messages, Value(Value::Array{}), false) == "tools");
  CHECK(ModelText(sources).render_chat(messages, tools, false) == "tools");
  sources.template_file = "file {{ bos_token }} {{ tools is none }} {{ unk_token is defined }}";
  CHECK(ModelText(sources).render_chat(messages, Value(), false) == "file <|bos|> True False");
  CHECK(ModelText(sources).template_origin() == "chat_template.jinja");
  CHECK(ModelText(sources, "chatml").render_chat(messages, Value(), true) ==
        "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n");
  expect_failure([&] { const ModelText text(sources, "llama3"); },
                 "has no token <|start_header_id|>", ErrorCode::Usage);
  expect_failure([&] { const ModelText text(sources, "/nonexistent.jinja"); },
                 "/nonexistent.jinja");
}

TEST_CASE("a reply stops on the config's ids, the EOS token and the template's end of turn") {
  const ModelText text(tiny_sources());
  CHECK(text.stop_ids() == std::vector<int64_t>{kEndOfText, kImEnd});
  CHECK(text.eos_id() == kEndOfText);
  TextSources sources = tiny_sources("{{ raise_exception('no') }}");
  sources.stop_ids.clear();
  CHECK(ModelText(sources).stop_ids() == std::vector<int64_t>{kEndOfText});
  sources.tokenizer_config.reset();
  sources.eos_id = kImStart;  // config.json's, where no file names the token
  CHECK(ModelText(sources).eos_id() == kImStart);
  sources.V = kTinyVocabulary + 2;
  Value later = Value::Object{{"id", kTinyVocabulary + 1}, {"content", "<|later|>"}};
  later.set("special", true);
  for (auto& [key, value] : sources.tokenizer.as_object())
    if (key == "added_tokens") value.as_array().push_back(later);
  sources.eos_id = kTinyVocabulary;  // below the largest id, and no token's
  CHECK_FALSE(ModelText(sources).eos_id());
  sources.special_tokens =
      Value(Value::Object{{"eos_token", Value::Object{{"content", "<|im_end|>"}}}});
  CHECK(ModelText(sources).eos_id() == kImEnd);
  sources.special_tokens = Value(Value::Object{{"eos_token", "<|nothing|>"}});
  expect_failure([&] { const ModelText unknown_eos(sources); },
                 "eos_token \"<|nothing|>\" is not in the tokenizer");
}
