// Patterns over replies, the rows they are asked of, and the conversation of a chat.
#include "generate/conversation.h"
#include "generate/match.h"
#include "support/catch.h"
#include "support/temp_folder.h"
#include "support/tiny_text.h"

using namespace lema;

namespace {

constexpr const char* kStrict =
    "\\A\\[LEMA_REPLY\\]\\nAnswer: .+\\nExplanation: .+\\nConfidence: "
    "(High|Medium|Low)\\n\\[/LEMA_REPLY\\]\\s*\\z";

std::vector<MatchRow> rows_of(const TempFolder& folder, std::string_view text,
                              bool has_common = true, int64_t positions = 1000) {
  const ModelText model(testing::tiny_sources());
  return read_match_rows(folder.file("rows.jsonl", text).string(), model, has_common, positions);
}

}  // namespace

TEST_CASE("pattern: anchors and lines are the pattern's own") {
  const Pattern strict(kStrict, "--pattern");
  const std::string reply =
      "[LEMA_REPLY]\nAnswer: x\nExplanation: \xC3\xA9t\xC3\xA9\nConfidence: High\n[/LEMA_REPLY]";
  CHECK(strict.matches(reply));
  CHECK(strict.matches(reply + "\n"));
  CHECK_FALSE(strict.matches(reply + "."));
  CHECK_FALSE(strict.matches(" " + reply));
  CHECK_FALSE(strict.matches(
      "[LEMA_REPLY]\nAnswer: x\ny\nExplanation: z\nConfidence: High\n[/LEMA_REPLY]"));
  CHECK(Pattern("(?i)\\bohm\\b", "row").matches("It is the Ohm."));
  CHECK(Pattern("^.$", "row").matches("\xC3\xA9"));
}

TEST_CASE("pattern: refuses what PCRE2 refuses and gives up on a match without end") {
  CHECK_BAD_INPUT(Pattern("(a", "rows.jsonl:3"), "rows.jsonl:3");
  std::string text(200, 'a');
  text.back() = 'b';
  const Pattern endless("(a+)+$", "--pattern");
  CHECK_BAD_INPUT(endless.matches(text), "--pattern");
}

TEST_CASE("match rows: prompts end with the generation prompt; other keys are left alone") {
  const TempFolder folder("match_rows");
  const auto rows = rows_of(
      folder,
      "{\"messages\": [{\"role\": \"user\", \"content\": \"hello\"}], \"category\": 3}\r\n\n"
      "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"match\": \"b\"}");
  REQUIRE(rows.size() == 2);
  CHECK(rows[0].line == 1);
  CHECK_FALSE(rows[0].pattern);
  CHECK(rows[1].line == 3);
  REQUIRE(rows[1].pattern);
  CHECK(rows[1].pattern->matches("abc"));
  const ModelText model(testing::tiny_sources());
  CHECK(model.tokenizer().decode(rows[0].prompt, false) ==
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n");
}

TEST_CASE("match rows: prompts are those that training has before an answer") {
  const TempFolder folder("match_prompts");
  const fs::path path = folder.file(
      "rows.jsonl",
      R"({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": null, )"
      R"("tool_calls": [{"function": {"name": "get", "arguments": "{\"a\": 1}"}}]}, )"
      R"({"role": "tool", "content": "7"}], "system": "brief", )"
      R"("chat_template_kwargs": {"x": "y"}, )"
      R"("tools": "[{\"name\": \"get\"}]"})"
      "\n"
      R"({"conversations": [{"from": "human", "value": "hi"}], "system": "brief"})"
      "\n");
  const ModelText text(testing::tiny_sources(
      "{{ x }}{% for t in tools or [] %}<{{ t.name }}>{% endfor %}{% for m in messages %}"
      "[{{ m.role }}]{{ m.content }}{% for c in m.tool_calls %}{{ c.function.name + "
      "(c.function.arguments | tojson) }}{% endfor %}{% endfor %}"
      "{% if add_generation_prompt %}[assistant]{% endif %}"));
  const auto rows = read_match_rows(path.string(), text, true, 1000);
  REQUIRE(rows.size() == 2);
  CHECK(text.tokenizer().decode(rows[0].prompt, false) ==
        "y<get>[system]brief[user]hi[assistant]get{\"a\": 1}[tool]7[assistant]");
  CHECK(text.tokenizer().decode(rows[1].prompt, false) == "[system]brief[user]hi[assistant]");
}

TEST_CASE("match rows: a bad row is named by its line") {
  const TempFolder folder("match_bad_rows");
  const std::string good = "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n";
  CHECK_BAD_INPUT(rows_of(folder, good + "{\"text\": 1}"),
                  "rows.jsonl:2: no array \"messages\" or");
  CHECK_BAD_INPUT(rows_of(folder, good + "{"), "rows.jsonl:2");
  CHECK_BAD_INPUT(
      rows_of(folder, "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"match\": 1}"),
      "match");
  CHECK_BAD_INPUT(
      rows_of(folder,
              "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"match\": \"(\"}"),
      "rows.jsonl:1: bad pattern");
  CHECK_BAD_INPUT(
      rows_of(folder, "{\"messages\": [{\"role\": \"assistant\", \"content\": \"a\"}]}"),
      "before the reply");
  CHECK_BAD_INPUT(rows_of(folder, "\n"), "no rows");
  const auto length = std::ssize(rows_of(folder, good).at(0).prompt);
  CHECK(rows_of(folder, good, true, length + 1).size() == 1);
  CHECK_BAD_INPUT(rows_of(folder, good + good, true, length),
                  fmt::format("rows.jsonl:1: the prompt has {} tokens", length));
  CHECK(contains(message_of(ErrorCode::Usage, [&] { rows_of(folder, good, false); }), "--pattern"));
}

TEST_CASE("match summary: shares of matched, stopped and distinct replies") {
  const MatchSummary s = summarise({{1, "a", true, Finish::Stop, 3},
                                    {2, "a", false, Finish::Length, 4},
                                    {3, "b", true, Finish::Stop, 5},
                                    {4, "c", false, Finish::Stop, 6}});
  CHECK(s.rows == 4);
  CHECK(s.share(s.matched) == 0.5);
  CHECK(s.share(s.stopped) == 0.75);
  CHECK(s.share(s.distinct) == 0.75);
  CHECK(s.tokens == 18);
}

TEST_CASE("conversation: the prompt is the rendered history") {
  const ModelText model(testing::tiny_sources());
  Conversation conversation(model, "Be brief.");
  const auto text = [&](const std::vector<int32_t>& ids) {
    return model.tokenizer().decode(ids, false);
  };
  const std::string first =
      "<|im_start|>system\nBe "
      "brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n";
  CHECK(text(conversation.ask("hi")) == first);
  conversation.answer("yo");
  const std::string second =
      first + "yo<|im_end|>\n<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\n";
  CHECK(text(conversation.ask("more")) == second);
  conversation.withdraw();
  CHECK(text(conversation.ask("more")) == second);
  CHECK(conversation.messages().as_array().size() == 4);
  conversation.reset("");
  CHECK(text(conversation.ask("hi")) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
}

TEST_CASE("conversation: a template that refuses leaves the conversation as it was") {
  const ModelText model(
      testing::tiny_sources("{% for m in messages %}{% if m.content == 'no' %}{{ "
                            "raise_exception('not that') }}{% endif %}{{ m.content }};"
                            "{% endfor %}"));
  Conversation conversation(model, "");
  conversation.ask("hi");
  conversation.answer("yo");
  CHECK_BAD_INPUT(conversation.ask("no"), "not that");
  CHECK(model.tokenizer().decode(conversation.ask("ok"), false) == "hi;yo;ok;");
}

TEST_CASE("conversation: without a template text is continued") {
  const ModelText model(testing::tiny_sources(""));
  Conversation conversation(model, "");
  conversation.ask("Once upon");
  conversation.answer(" a time");
  CHECK(model.tokenizer().decode(conversation.ask(" there"), true) == "Once upon a time there");
  conversation.withdraw();
  CHECK(model.tokenizer().decode(conversation.ask("."), true) == "Once upon a time.");
  CHECK(contains(message_of(ErrorCode::Usage, [&] { conversation.reset("x"); }), "chat template"));
}
