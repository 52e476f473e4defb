// `lema tokenize`: text to ids and back, line by line from standard input: what a data set becomes
// and what a chat sees. Called by main; the work is data/model_text and data/chat_mask.
#include <cstdio>
#include <iostream>
#include <limits>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/token_paint.h"
#include "core/error.h"
#include "core/file.h"
#include "data/chat_mask.h"
#include "data/model_text.h"
#include "data/row_shapes.h"
#include "formats/json.h"

namespace lema {
namespace {

struct TokenizeOptions {
  std::string model, chat_template, train_on;
  bool json_lines = false, no_special = false, decode = false, skip_special = false, chat = false,
       render = false, show = false;
  Value tools;  // of lines that name none
};

constexpr const char* kSource = "standard input";

Value encode_line(const TokenizeOptions& options, const ModelText& text, const std::string& line,
                  int number) {
  const Value json =
      options.json_lines ? parse_json(line, kSource, kJsonLineLimits, number) : Value(line);
  if (!json.is_string())
    fail(ErrorCode::BadInput, "{}:{}: found {}, expected a JSON string", kSource, number,
         name(json.kind()));
  return to_array(text.encode(json.as_string(), !options.no_special).ids);
}

Value decode_line(const TokenizeOptions& options, const ModelText& text, const std::string& line,
                  int number) {
  const Value json = parse_json(line, kSource, kJsonLineLimits, number);
  if (!json.is_array())
    fail(ErrorCode::BadInput, "{}:{}: found {}, expected a JSON array of ids", kSource, number,
         name(json.kind()));
  std::vector<int32_t> ids;
  for (const Value& id : json.as_array()) {
    if (!id.is_int() || id.as_int() < 0 || id.as_int() > std::numeric_limits<int32_t>::max())
      fail(ErrorCode::BadInput, "{}:{}: element {} is not a token id", kSource, number, ids.size());
    ids.push_back(static_cast<int32_t>(id.as_int()));
  }
  return text.tokenizer().decode(ids, options.skip_special);
}

Value chat_of(const TokenizeOptions& options, const ModelText& text, const Value& json) {
  const Value* prompt = json.find("add_generation_prompt");
  if (prompt && !prompt->is_bool())
    fail(ErrorCode::BadInput, "add_generation_prompt is not a boolean");
  const bool add_prompt = prompt && prompt->as_bool();
  // --render shows the template alone, whatever it makes of the messages.
  if (options.render) {
    const Value* messages = json.find("messages");
    if (!messages) fail(ErrorCode::BadInput, "no field \"messages\"");
    const Value* tools = json.find("tools") ? json.find("tools") : &options.tools;
    const Value* variables = json.find("chat_template_kwargs");
    return Value::Object{{"text", text.render_chat(*messages, *tools, add_prompt,
                                                   variables ? *variables : Value())}};
  }
  const auto shape = detect_shape(json);
  auto dialogue = shape ? dialogue_of(shape->format, json) : std::nullopt;
  if (!dialogue) fail(ErrorCode::BadInput, "no field \"messages\"");
  if (!json.find("tools")) dialogue->tools = options.tools;
  const ChatEncoding chat = encode_chat(*dialogue, add_prompt, options.train_on, text);
  if (options.show) return paint_tokens(chat.ids, chat.trained, text.tokenizer(), paints_output());
  return Value::Object{
      {"text", chat.text}, {"ids", to_array(chat.ids)}, {"trained", to_array(chat.trained)}};
}

Value chat_line(const TokenizeOptions& options, const ModelText& text, const std::string& line,
                int number) {
  const Value json = parse_json(line, kSource, kJsonLineLimits, number);
  try {
    return chat_of(options, text, json);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::BadInput) throw;
    if (options.render) return Value::Object{{"error", error.what()}};
    fail(ErrorCode::BadInput, "{}:{}: {}", kSource, number, error.what());
  }
}

void tokenize(const TokenizeOptions& options) {
  const ModelText text(read_text_sources(options.model), options.chat_template);
  std::string line;
  for (int number = 1; std::getline(std::cin, line); ++number) {
    const Value result = options.chat     ? chat_line(options, text, line, number)
                         : options.decode ? decode_line(options, text, line, number)
                                          : encode_line(options, text, line, number);
    const std::string out = (options.show ? result.as_string() : dump_json(result)) + "\n";
    if (std::fwrite(out.data(), 1, out.size(), stdout) != out.size())
      return;  // main reports the stream's error
  }
  if (std::cin.bad()) fail(ErrorCode::Io, "{}: cannot be read", kSource);
}

}  // namespace

void add_tokenize(CLI::App& app) {
  auto& command =
      *app.add_subcommand("tokenize", "Lines of text in, a JSON array of token ids a line out");
  command.add_option("--model", "Model folder")->required()->type_name("DIR");
  command.add_flag("--json-lines")
      ->description("Each input line is a JSON string (--decode and --chat read JSON without it)");
  command.add_flag("--no-special")->description("Do not add BOS and the like");
  auto* decode = command.add_flag("--decode")
                     ->description("Each input line is a JSON array of ids; JSON strings out");
  command.add_flag("--skip-special")
      ->description("With --decode: leave out special tokens")
      ->needs(decode);
  auto* chat = command.add_flag("--chat")->description(
      "Each input line is {\"messages\": [...]}, with \"tools\", \"chat_template_kwargs\" and "
      "\"add_generation_prompt\" if "
      "wanted; text, ids and "
      "label mask out");
  command.add_flag("--render")
      ->description("With --chat: the text only, or {\"error\": ...}")
      ->needs(chat);
  command.add_flag("--show")
      ->description(
          "With --chat: the text a model sees instead of JSON, trained tokens green, or between "
          "\u27e6 and \u27e7 where there is no terminal")
      ->needs(chat)
      ->excludes("--render");
  command
      .add_option("--tools", "With --chat: a JSON file, the array of tools of lines without one")
      ->needs(chat)
      ->type_name("FILE");
  command.add_option("--train-on", "With --chat: whose tokens the mask shows")
      ->check(CLI::IsMember({"completions", "last", "all"}))
      ->needs(chat)
      ->default_str("completions");
  command
      .add_option("--chat-template",
                  "With --chat: a template file, chatml or llama3; else the model's")
      ->needs(chat)
      ->type_name("TEMPLATE");
  decode->excludes(chat);
  command.callback([&command] {
    TokenizeOptions options;
    options.model = command["--model"]->as<std::string>();
    options.chat_template = command["--chat-template"]->as<std::string>();
    options.train_on = command["--train-on"]->as<std::string>();
    options.json_lines = command.count("--json-lines") > 0;
    options.no_special = command.count("--no-special") > 0;
    options.decode = command.count("--decode") > 0;
    options.skip_special = command.count("--skip-special") > 0;
    options.chat = command.count("--chat") > 0;
    options.render = command.count("--render") > 0;
    options.show = command.count("--show") > 0;
    if (command.count("--tools") > 0) {
      const auto path = command["--tools"]->as<std::string>();
      options.tools = parse_json(read_text(path, kJsonLineLimits.max_bytes), path);
      if (!options.tools.is_array())
        fail(ErrorCode::BadInput, "{}: found {}, expected array", path, name(options.tools.kind()));
    }
    tokenize(options);
  });
}

}  // namespace lema
