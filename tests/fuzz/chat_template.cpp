// Fuzzes chat templates: parsing, and rendering a fixed conversation with what parses.
#include "text/chat_template.h"

#include <chrono>

#include "formats/json.h"
#include "fuzz/fuzz_target.h"

using namespace lema;

namespace {

const Value& conversation() {
  static const Value value = parse_json(
      R"({"messages": [{"role": "system", "content": "be"},
          {"role": "user", "content": "a <b> \u00e9"},
          {"role": "assistant", "content": "c", "n": -3, "x": 1.5, "t": true,
           "tool_calls": [{"function": {"name": "f", "arguments": {"k": [1, null, "v"]}}}]}],
          "tools": [{"type": "function"}], "add_generation_prompt": true, "bos_token": "<s>",
          "eos_token": "</s>"})",
      "conversation");
  return value;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string source(fuzz::text_of(data, size));
  const auto began = std::chrono::steady_clock::now();
  fuzz::accepts([&] {
    const ChatTemplate parsed(source);
    ChatTemplate::Rendered spans;
    if (!fuzz::accepts([&] { spans = parsed.render_spans(conversation()); })) return;
    int64_t end = 0;
    for (const auto& [from, to] : spans.generated) {
      fuzz::expect(from >= end && to >= from && to <= std::ssize(spans.text),
                   "a span out of place");
      end = to;
    }
    // A rendering may hold the time of day and a random choice, and depends on nothing else.
    std::string again;
    const bool renders = fuzz::accepts([&] { again = parsed.render(conversation()); });
    const bool varies =
        source.find("strftime_now") != source.npos || source.find("random") != source.npos;
    fuzz::expect(renders && (varies || again == spans.text), "two different renderings");
  });
  // A template may take what text/jinja_value.h allows; -1 keeps one that does from the corpus, of
  // which thousands more would be made.
  return std::chrono::steady_clock::now() - began < std::chrono::milliseconds(20) ? 0 : -1;
}
