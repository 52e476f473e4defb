// Data set readers: the three formats, and one wrong row at a time with its line and reason.
#include <unistd.h>

#include <algorithm>

#include "data/dataset.h"
#include "support/catch.h"
#include "support/message_of.h"
#include "support/tiny_text.h"

using namespace lema;
using namespace lema::testing;

namespace {

// A file that is gone at the end of the test.
class TempFile {
 public:
  explicit TempFile(const std::string& bytes)
      : path_(fs::temp_directory_path() /
              ("lema_dataset_" + std::to_string(::getpid()) + ".jsonl")) {
    write_file(path_, bytes);
  }
  TempFile(const TempFile&) = delete;
  ~TempFile() { fs::remove(path_); }
  std::string path() const { return path_.string(); }

 private:
  fs::path path_;
};

Dataset load(const std::string& bytes, const RunConfig::Data& options = {}) {
  const TempFile file(bytes);
  return load_dataset({file.path()}, options, ModelText(tiny_sources()));
}

// The message of a load that must fail, with the file's path written FILE.
std::string failure(const std::string& bytes, const RunConfig::Data& options = {},
                    ErrorCode code = ErrorCode::BadInput,
                    const std::string& chat_template = kChatMl) {
  const TempFile file(bytes);
  const ModelText text(tiny_sources(chat_template));
  try {
    load_dataset({file.path()}, options, text);
  } catch (const Error& error) {
    CHECK(error.code() == code);
    std::string message = error.what();
    for (size_t at; (at = message.find(file.path())) != std::string::npos;)
      message.replace(at, file.path().size(), "FILE");
    return message;
  }
  FAIL("accepted: " << bytes);
  return "";
}

void expect(const std::string& message, const std::string& part) {
  INFO("message: " << message);
  INFO("wanted: " << part);
  CHECK(contains(message, part));
}

const std::string kGoodChat =
    R"({"messages":[{"role":"user","content":"hello"},)"
    R"({"role":"assistant","content":"hello world"}]})";

std::vector<int32_t> ids_of(const std::string& text) {
  return ModelText(tiny_sources()).tokenizer().encode(text, false).ids;
}

}  // namespace

TEST_CASE("text rows are trained whole and end with EOS") {
  const Dataset dataset = load("{\"text\":\"hello world\"}\n\n{\"text\":\"he\", \"extra\": [1]}\n");
  CHECK(dataset.format == "text");
  REQUIRE(dataset.rows.size() == 2);
  auto ids = ids_of("hello world");
  ids.push_back(kEndOfText);
  CHECK(dataset.rows[0].ids == ids);
  CHECK(dataset.rows[0].trained.front() == 0);
  CHECK(std::count(dataset.rows[0].trained.begin(), dataset.rows[0].trained.end(), 1) ==
        static_cast<int64_t>(ids.size()) - 1);
  CHECK(dataset.rows[1].line == 3);
  CHECK(dataset.rows[1].ids.size() == 2);
  CHECK(dataset.tokens == static_cast<int64_t>(ids.size()) + 2);
  CHECK(dataset.trained_tokens == dataset.tokens - 2);
  CHECK(dataset.longest_row_tokens == static_cast<int64_t>(ids.size()));
}

TEST_CASE("append_eos can be turned off, is not doubled, and needs an EOS") {
  RunConfig::Data options;
  options.append_eos = false;
  CHECK(load("{\"text\":\"hello world\"}", options).rows[0].ids == ids_of("hello world"));
  CHECK(load("{\"text\":\"hello<|endoftext|>\"}").rows[0].ids.size() == 2);
  TextSources sources = tiny_sources();
  sources.tokenizer_config.reset();
  const TempFile file("{\"text\":\"hello\"}");
  expect(message_of(ErrorCode::Usage, [&] { load_dataset({file.path()}, {}, ModelText(sources)); }),
         "names an EOS token");
  sources.eos_id = kImEnd;
  CHECK(load_dataset({file.path()}, {}, ModelText(sources)).rows[0].ids.back() == kImEnd);
  options.append_eos = true;
  expect(failure(kGoodChat, options, ErrorCode::Usage),
         "data.append_eos applies to formats text and completion");
}

TEST_CASE("line ends, byte order mark, blank lines and a missing final newline") {
  const std::string row = "{\"text\":\"hello\"}";
  for (const std::string& bytes :
       {row, row + "\n", row + "\r\n", "\xef\xbb\xbf" + row, "\n \t\r\n" + row + "\n\n\r\n"})
    CHECK(load(bytes).rows.size() == 1);
  CHECK(load("\r\n\r\n" + row).rows[0].line == 3);
}

TEST_CASE("token rows take labels or a mask") {
  const Dataset plain = load(R"({"tokens":[5,6,7]})");
  CHECK(plain.format == "tokens");
  CHECK(plain.rows[0].trained == std::vector<uint8_t>{0, 1, 1});
  CHECK(load(R"({"input_ids":[5,6,7],"labels":[-100,-100,7]})").rows[0].trained ==
        std::vector<uint8_t>{0, 0, 1});
  CHECK(load(R"({"input_ids":[5,6,7],"mask":[1,true,0]})").rows[0].trained ==
        std::vector<uint8_t>{0, 1, 0});
  CHECK(load(R"({"tokens":[5,6,265]})").rows[0].ids.back() == 265);
}

TEST_CASE("chat rows train the assistant's turn alone, or everything") {
  RunConfig::Data options;
  const Dataset completions = load(kGoodChat, options);
  CHECK(completions.format == "chat");
  const Row& row = completions.rows.at(0);
  const size_t answer = ids_of("<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n").size();
  for (size_t t = 0; t < row.ids.size(); ++t) CHECK(row.trained[t] == (t >= answer));
  CHECK(row.ids[row.ids.size() - 2] == kImEnd);
  options.train_on = "all";
  CHECK(load(kGoodChat, options).trained_tokens == static_cast<int64_t>(row.ids.size()) - 1);
}

TEST_CASE("too_long: error, drop, truncate") {
  const std::string bytes = "{\"tokens\":[1,2,3,4,5]}\n{\"tokens\":[1,2]}\n";
  RunConfig::Data options;
  options.max_tokens = 4;
  expect(failure(bytes, options), "FILE:1:1: 5 tokens, data.max_tokens is 4");
  options.too_long = "drop";
  const Dataset dropped = load(bytes, options);
  CHECK(dropped.rows.size() == 1);
  CHECK(dropped.dropped_rows == 1);
  expect(failure("{\"tokens\":[1,2,3,4,5]}", options),
         "FILE: all 1 rows are longer than data.max_tokens 4");
  options.too_long = "truncate";
  const Dataset truncated = load(bytes, options);
  CHECK(truncated.rows[0].ids == std::vector<int32_t>{1, 2, 3, 4});
  CHECK(truncated.truncated_rows == 1);
  expect(failure(R"({"tokens":[1,2,3,4,5],"mask":[0,0,0,0,1]})", options),
         "no trained token among 4 (after truncation from 5)");
  options.max_tokens = 5;
  CHECK(load(bytes, options).truncated_rows == 0);
}

TEST_CASE("one wrong row is named with line and reason, and hides no other") {
  struct Case {
    std::string row, reason;
  };
  const std::string user = R"({"role":"user","content":"hi"})",
                    nul = std::string("{\"text\":\"a") + '\0' + "\"}";
  const std::vector<Case> chat = {
      {"{", "FILE:2:"},
      {kGoodChat + " x", "FILE:2:"},
      {"[]", "FILE:2:1: found array, expected object"},
      {"  \"text\"", "FILE:2:3: found string, expected object"},
      {"null", "found null, expected object"},
      {"{}", "no field \"messages\""},
      {R"({"text":"x"})", "no field \"messages\""},
      {R"({"messages":"x"})", "messages: found string, expected array"},
      {R"({"messages":[]})", "messages: the array is empty"},
      {R"({"messages":[3]})", "messages[0]: found integer, expected object"},
      {R"({"messages":[{"content":"x"}]})", "messages[0]: no field \"role\""},
      {R"({"messages":[{"role":1,"content":"x"}]})",
       "messages[0].role: found integer, expected string"},
      {R"({"messages":[{"role":"asistant","content":"x"}]})",
       "messages[0].role: found \"asistant\", expected one of"},
      {R"({"messages":[{"role":"user"}]})", "messages[0]: no field \"content\""},
      {R"({"messages":[{"role":"user","content":null}]})",
       "messages[0].content: found null, expected string"},
      {R"({"messages":[{"role":"user","content":["x"]}]})",
       "messages[0].content: found array, expected string"},
      {R"({"messages":[)" + user + R"(],"tools":"x"})", "tools: found string, expected array"},
      {R"({"messages":[)" + user + "]}", "no trained token: no message of the assistant"},
      {R"({"messages":[)" + user + R"(],"messages":[]})", "FILE:2:"},
      {nul, "FILE:2:11: NUL byte"},
      {"{\"text\":\"\xff\"}", "FILE:2:10: "},
      {"{\"text\":\"\\ud800\"}", "FILE:2:"},
      {"\xef\xbb\xbf" + kGoodChat, "FILE:2:1: "},
      {R"({"messages":[)" + user + R"(,{"role":"assistant","content":"\n\nhi"}]})",
       "messages[1]: the prompt before it has other tokens alone"},
      {std::string(40, '[') + std::string(40, ']'), "FILE:2:33: "},
  };
  for (const Case& wrong : chat) {
    const std::string message = failure(kGoodChat + "\n" + wrong.row + "\n" + kGoodChat + "\n");
    expect(message, "FILE: 1 of 3 rows cannot be used:\n");
    expect(message, wrong.reason);
  }
  const std::vector<Case> tokens = {
      {R"({"tokens":[1],"input_ids":[1]})", "both \"tokens\" and \"input_ids\""},
      {R"({"tokens":[1,2],"labels":[1,2],"mask":[1,1]})", "both \"labels\" and \"mask\""},
      {R"({"tokens":5})", "tokens: found integer, expected array"},
      {R"({"tokens":[]})", "no trained token among 0"},
      {R"({"tokens":[4]})", "no trained token among 1"},
      {R"({"tokens":[1,"2"]})", "tokens[1]: found string, expected integer"},
      {R"({"tokens":[1,2.0]})", "tokens[1]: found number, expected integer"},
      {R"({"tokens":[1,-1]})", "tokens[1]: found -1, expected an id below the vocabulary's 266"},
      {R"({"tokens":[266,1]})", "tokens[0]: found 266, expected an id below"},
      {R"({"input_ids":[1,2],"labels":[1]})",
       "labels: found 1 elements, expected one per token: 2"},
      {R"({"input_ids":[1,2],"labels":[1,3]})",
       "labels[1]: found 3, expected 2 (the same token, unshifted) or -100"},
      {R"({"input_ids":[1,2],"labels":[1,-100]})", "no trained token among 2"},
      {R"({"input_ids":[1,2],"mask":[1,2]})", "mask[1]: found 2, expected 0 or 1"},
      {R"({"text":"x"})", "no field \"tokens\""},
  };
  for (const Case& wrong : tokens)
    expect(failure("{\"tokens\":[1,2]}\n" + wrong.row + "\n"), "FILE:2:1: " + wrong.reason);
}

TEST_CASE("a row must end on a stop token the model knows") {
  const char* endless =
      "{% for m in messages %}{{ '<|im_start|>' + m.role + ':' + m.content + '\\n' }}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|im_start|>assistant:' }}{% endif %}";
  expect(failure(kGoodChat, {}, ErrorCode::BadInput, endless),
         "FILE:1:1: no stop token is trained at the end of an answer (stop ids of the model: 262)");
  // A stop token that stands in an answer does not end it.
  const std::string inside =
      R"({"messages":[{"role":"user","content":"hello"},{"role":"assistant",)"
      R"("content":"a<|endoftext|>b"}]})";
  const std::string at_end =
      R"({"messages":[{"role":"user","content":"hello"},{"role":"assistant",)"
      R"("content":"ab<|endoftext|> \n"}]})";
  for (const char* train_on : {"completions", "last", "all"}) {
    INFO("train_on " << train_on);
    RunConfig::Data whose;
    whose.train_on = train_on;
    expect(failure(inside, whose, ErrorCode::BadInput, endless), "no stop token is trained");
    const TempFile file(at_end);
    const ModelText text(tiny_sources(endless));
    CHECK(load_dataset({file.path()}, whose, text).rows.size() == 1);
  }
  RunConfig::Data options;
  options.format = "chat";
  expect(failure(kGoodChat, options, ErrorCode::Usage, ""), "has no chat template");
}

TEST_CASE("a conversation cut after a stop token in an answer's text is refused") {
  const std::string row =
      R"({"messages":[{"role":"user","content":"x"},{"role":"assistant","content":)"
      R"("a<|im_end|>hello hello hello"},{"role":"user","content":"y"},)"
      R"({"role":"assistant","content":"z"}]})";
  const Dataset whole = load(row);
  RunConfig::Data options;
  options.too_long = "truncate";
  for (const char* train_on : {"completions", "all"}) {
    options.train_on = train_on;
    options.max_tokens = 23;  // both marks, the roles and "a<|im_end|>hello"
    INFO("train_on " << train_on);
    expect(failure(row, options), "no trained stop token is left");
    options.max_tokens = std::ssize(whole.rows[0].ids) - 1;
    CHECK(load(row, options).endless_rows == 1);
  }
}

TEST_CASE("the length rule comes before the mask, and a cut row's mask is the whole one's start") {
  std::string turns;
  for (int i = 0; i < 40; ++i)
    turns += R"({"role":"user","content":"hello"},{"role":"assistant","content":"hello world"},)";
  // The template refuses to be cut before the last answer: no prompt can be rendered.
  const std::string row = R"({"messages":[)" + turns + R"({"role":"user","content":"x"},)" +
                          R"({"role":"assistant","content":"end"}]})";
  const char* whole_only =
      "{% if messages[-1].content != 'end' %}{{ raise_exception('cut') }}{% endif %}"
      "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
      "{% endfor %}";
  RunConfig::Data options;
  options.max_tokens = 100;
  expect(failure(row, options, ErrorCode::BadInput, whole_only), "data.max_tokens is 100");
  options.too_long = "drop";
  expect(failure(row, options, ErrorCode::BadInput, whole_only), "rows are longer than");

  const Dataset whole = load(row);
  options.too_long = "truncate";
  for (options.max_tokens = 28; options.max_tokens < 80; ++options.max_tokens) {
    const Dataset cut = load(row, options);
    const auto end = whole.rows[0].trained.begin() + options.max_tokens;
    CHECK(cut.rows[0].trained == std::vector<uint8_t>(whole.rows[0].trained.begin(), end));
    CHECK(cut.endless_rows == 1);
  }
}

TEST_CASE("role order is the template's to refuse") {
  const char* strict =
      "{% if messages[0].role != 'user' %}{{ raise_exception('must start with user') }}{% endif %}";
  expect(failure(R"({"messages":[{"role":"assistant","content":"x"}]})", {}, ErrorCode::BadInput,
                 strict + std::string(kChatMl)),
         "FILE:1:1: chat template: line 1: must start with user");
}

TEST_CASE("twenty reasons are shown and all bad rows are counted") {
  std::string bytes;
  for (int i = 0; i < 30; ++i) bytes += i % 10 == 0 ? "{\"text\":\"fine\"}\n" : "{\"text\":1}\n";
  const std::string message = failure(bytes);
  expect(message,
         "FILE: 27 of 30 rows cannot be used:\nFILE:2:1: text: found integer, expected string\n");
  expect(message, "\n... and 7 more");
  CHECK(std::count(message.begin(), message.end(), '\n') == 21);
}

TEST_CASE("empty files and unknown shapes") {
  expect(failure(""), "FILE: the file has no rows");
  expect(failure("\n\n"), "FILE: the file has no rows");
  expect(failure("{\"prompt\":\"x\",\"answer\":\"y\"}"),
         "FILE:1:1: found fields prompt, answer, expected \"messages\", \"conversations\", ");
  expect(failure("{\"prompt\":\"x\"}\n{\"text\":\"y\"}"), "FILE: 1 of 2 rows cannot be used");
  CHECK_BAD_INPUT(load_dataset({"/nonexistent.jsonl"}, {}, ModelText(tiny_sources())),
                  "/nonexistent.jsonl");
}

TEST_CASE("a token beyond the embedding is refused where a text has it") {
  TextSources sources = tiny_sources();
  sources.V = kTinyVocabulary - 1;
  const ModelText text(sources);
  const std::string last = text.tokenizer().token(kTinyVocabulary - 1);
  CHECK(!text.encode("a b", false).ids.empty());
  CHECK_BAD_INPUT(text.encode("a" + last, false),
                  "has id 265 of 266 in the tokenizer, the model's embedding has 265 rows");
  sources.V = 3;  // its EOS lies beyond
  CHECK_BAD_INPUT(const ModelText unusable(sources), "embedding has 3 rows");
}
