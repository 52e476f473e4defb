// Malformed data files: what each record, or the rest of the file, is refused for. Rows that are
// records and yet of no use are tests/unit/data_dataset_test.cpp's.
#include "data/dataset.h"
#include "support/malformed.h"
#include "support/temp_folder.h"
#include "support/tiny_text.h"

using namespace lema;

namespace {

// Loads the bytes as a data file of this name.
class Loader {
 public:
  explicit Loader(std::string name) : name_(std::move(name)) {}
  void operator()(const std::string& bytes) const {
    try {
      load_dataset({folder_.file(name_, bytes).string()}, {}, text_);
    } catch (const Error& error) {
      // A list of rows has a line for each: the case's is the one that is looked at.
      std::string message = error.what();
      const size_t end = message.find(":\n");
      if (end == message.npos) throw;
      CHECK(contains(message, "rows cannot be used:"));
      message = message.substr(end + 2);
      message = message.substr(0, message.find('\n'));
      throw Error(error.code(), message);
    }
  }

 private:
  std::string name_;
  TempFolder folder_{"malformed_rows"};
  ModelText text_{testing::tiny_sources()};
};

void expect(const std::string& name, const std::vector<Malformed>& cases) {
  expect_refused(cases, name, Loader(name));
}

const std::string kGood = "{\"text\":\"a\"}\n";

}  // namespace

TEST_CASE("JSON lines: lines that are no records") {
  std::vector<Malformed> cases;
  const auto second = [&](std::string name, std::string line, std::string part) {
    cases.push_back({std::move(name), kGood + line + "\n" + kGood, std::move(part)});
  };
  for (const char* value : {"null", "true", "1", "1.5", "\"text\"", "[]", "[{\"text\":\"a\"}]"})
    second(std::string("the value ") + value, value, "d.jsonl:2:1: found");
  second("text behind", "{\"text\":\"a\"} x", "d.jsonl:2:14: ");
  second("two objects", "{\"text\":\"a\"}{\"text\":\"b\"}", "d.jsonl:2:13: ");
  second("a comma behind", "{\"text\":\"a\"},", "d.jsonl:2:13: ");
  second("single quotes", "{'text':'a'}", "d.jsonl:2:2: ");
  second("a comment", "// a", "d.jsonl:2:1: ");
  second("plain text", "hello world", "d.jsonl:2:1: ");
  second("NaN", "{\"text\":\"a\",\"x\":NaN}", "d.jsonl:2:17: ");
  second("1e400", "{\"text\":\"a\",\"x\":1e400}", "number overflow");
  second("2^63", "{\"text\":\"a\",\"x\":9223372036854775808}", "integer beyond 64 bits");
  second("a key twice", "{\"text\":\"a\",\"text\":\"b\"}", "duplicate key \"text\"");
  second("a NUL", std::string("{\"text\":\"\0\"}", 12), "NUL byte");
  second("invalid UTF-8", "{\"text\":\"\xe9\"}", "UTF-8");
  second("an overlong character", "{\"text\":\"\xc0\x80\"}", "UTF-8");
  second("a lone surrogate", "{\"text\":\"\\ud83d\"}", "surrogate");
  second("a control character", "{\"text\":\"\x1b[2J\"}", "control character");
  second("a byte order mark", "\xef\xbb\xbf{\"text\":\"a\"}", "byte order mark");
  second("33 levels", "{\"text\":\"a\",\"x\":" + repeat("[", 33) + repeat("]", 33) + "}",
         "32 levels");
  second("a million brackets", repeat("[", 1'000'000), "32 levels");
  second("a line cut short", "{\"text\":\"a", "d.jsonl:2:");
  second("an array's bracket", "[", "d.jsonl:2:1: ");
  cases.push_back({"the last line cut short", kGood + "{\"text\":", "d.jsonl:2:"});
  cases.push_back({"CR alone", "{\"text\":\"a\"}\r{\"text\":\"b\"}\r", "CR alone"});
  cases.push_back(
      {"pretty-printed", "{\n  \"text\": \"a\"\n}\n", "a JSON value over several lines"});
  cases.push_back({"nothing", "", "the file has no rows"});
  cases.push_back({"blank lines", "\n\r\n \t\n", "the file has no rows"});
  cases.push_back({"a byte order mark alone", "\xef\xbb\xbf", "the file has no rows"});
  cases.push_back({"UTF-16", std::string("\xff\xfe{\0\"\0", 6), "d.jsonl:1:"});
  cases.push_back({"a zip archive", "PK\x03\x04\x14", "a zip archive"});
  cases.push_back({"a web page", "<!DOCTYPE html>\n<html>\n", "d.jsonl:1:1: "});
  cases.push_back(
      {"a git-lfs pointer", "version https://git-lfs.github.com/spec/v1\n", "git-LFS pointer"});
  expect("d.jsonl", cases);
}

TEST_CASE("JSON lines: a line longer than may be") {
  expect("d.jsonl",
         {{"65 MiB of text", "{\"text\":\"" + std::string(65 << 20, 'a') + "\"}",
           "a line of more than 67108864 bytes"},
          {"65 MiB of brackets", std::string(65 << 20, '['), "more than 67108864 bytes"}});
}

TEST_CASE("JSON lines: rows of many members") {
  std::string members;
  for (int i = 0; i < 100'000; ++i) members += fmt::format(",\"{}\":1", i);
  const std::string object = "{\"x\":1" + members + "}";
  const auto chat = [](const std::string& message, const std::string& more) {
    return R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b")" +
           message + "}]" + more + "}\n";
  };
  expect_accepted({kGood, chat("", ""), "{\"text\":\"a\"" + members + "}\n", chat(members, ""),
                   chat("", ",\"tools\":[" + object + "]"),
                   chat("", ",\"chat_template_kwargs\":" + object),
                   R"({"conversations":[{"from":"human","value":"a"},{"from":"gpt","value":"b")" +
                       members + "}]}\n"},
                  Loader("d.jsonl"));
}

TEST_CASE("a JSON array that is none") {
  const std::vector<Malformed> cases = {
      {"no end", "[{\"text\":\"a\"}", "the array ends in the middle"},
      {"a comma and no end", "[{\"text\":\"a\"},", "the array ends in the middle"},
      {"no end of an element", "[{\"text\":\"a\"", "d.json:1:"},
      {"a brace for the bracket", "[{\"text\":\"a\"}}", "expected ',' or ']'"},
      {"no comma", "[{\"text\":\"a\"} {\"text\":\"b\"}]", "expected ',' or ']'"},
      {"text behind", "[{\"text\":\"a\"}] x", "text after the end of the array"},
      {"an array behind", "[{\"text\":\"a\"}]\n[]", "d.json:2:1: text after the end"},
      {"a comma at the start", "[,{\"text\":\"a\"}]", "d.json:1:2: "},
      {"a comma at the end", "[{\"text\":\"a\"},]", "d.json:1:15: "},
      {"two commas", "[{\"text\":\"a\"},,{\"text\":\"b\"}]", "d.json:1:15: "},
      {"numbers", "[1, 2]", "d.json:1:2: found integer"},
      {"arrays", "[[]]", "d.json:1:2: found array"},
      {"an empty array", "[]", "the file has no rows"},
      {"an open string", "[\"abc", "d.json:1:6: the array ends"},
      {"a million brackets", repeat("[", 1'000'000), "d.json:1:"},
      {"a million commas", "[" + repeat(",", 1'000'000) + "]", "d.json:1:2: "},
      {"65 MiB in one element", "[{\"text\":\"" + std::string(65 << 20, 'a') + "\"}]",
       "a record of more than 67108864 bytes"},
  };
  expect("d.json", cases);
}

TEST_CASE("CSV that is none") {
  const std::vector<Malformed> cases = {
      {"a quote never closed", "text\n\"a\nb\n", "d.csv:2:1: a quote that is never closed"},
      {"text after a quote", "text\n\"a\"b\n", "d.csv:2:4: text after a closing quote"},
      {"a quote inside", "text\na\"b\"\n", "d.csv:2:2: a quote inside a field"},
      {"a field too many", "text\na,b\n", "found 2 fields, expected 1"},
      {"a field too few", "prompt,completion\na\n", "found 1 fields, expected 2"},
      {"a column without a name", "text,\na,b\n", "column 2 has no name"},
      {"two columns of a name", "text,text\na,b\n", "two columns \"text\""},
      {"a terminal escape as two columns", "\x1b[2J,\x1b[2J\na,b\n", "\\x1b[2J"},
      {"a NUL in the header", std::string("te\0xt\na\n", 8), "NUL byte"},
      {"a NUL in a field", std::string("text\na\0b\n", 9), "NUL byte"},
      {"invalid UTF-8", "text\n\xff\n", "UTF-8"},
      {"CR alone", "text\ra\rb", "CR alone"},
      {"a header alone", "text\n", "the file has no rows"},
      {"a million columns", repeat("a,", 1'000'000) + "b\n", "more than 4096 fields"},
      {"a field of 65 MiB", "text\n\"" + std::string(65 << 20, 'a') + "\"\n",
       "a record of more than 67108864 bytes"},
  };
  expect("d.csv", cases);
}

TEST_CASE("text and packed files that are none") {
  expect("d.txt", {{"invalid UTF-8", "a\n\xff\n", "d.txt:2:1: not valid UTF-8"},
                   {"a NUL", std::string("a\n\0\n", 4), "d.txt:2:1: NUL byte"},
                   {"CR alone", "a\rb", "CR alone"},
                   {"a line of 65 MiB", std::string(65 << 20, 'a'), "a line of more than"}});
  expect("d.jsonl.gz",
         {{"not gzip", kGood, "d.jsonl.gz"},
          {"a gzip header alone", "\x1f\x8b\x08", "d.jsonl.gz"},
          {"a damaged stream", "\x1f\x8b\x08" + std::string(40, '\x55'), "d.jsonl.gz"}});
}
