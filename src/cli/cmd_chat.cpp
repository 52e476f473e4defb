// `lema chat`: talks with a model, or with a model and an adapter: at a terminal, over a pipe (a
// line is a turn) or for one prompt. The work is generate/conversation and generate/generator.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <iostream>
#include <optional>
#include <string>

#include "cli/commands.h"
#include "cli/options.h"
#include "core/file.h"
#include "core/log.h"
#include "core/signals.h"
#include "formats/json.h"
#include "generate/conversation.h"
#include "generate/generator.h"

namespace lema {
namespace {

using Clock = std::chrono::steady_clock;

// A chat that is told no size gets this cache, or all positions of a model that has fewer.
constexpr int64_t kDefaultContext = 4096;

struct ChatOptions {
  std::string model, system, chat_template;
  std::optional<std::string> prompt;
  OpenOptions open;
  std::optional<double> temperature, top_p;
  std::optional<int64_t> top_k;
  int64_t max_new_tokens = 0, context = 0;
  uint64_t seed = 0;
  bool greedy = false, json = false, show_ids = false;
};

// Flag, else generation_config.json, else the default.
template <typename T>
T choose(const std::optional<T>& flag, const Value* file, double fallback) {
  if (flag) return *flag;
  return static_cast<T>(file && file->is_number() ? file->as_number() : fallback);
}

SamplerOptions sampler_options(const ChatOptions& options, const ModelFolder& folder) {
  const Value config = optional_json(folder.path(), "generation_config.json").value_or(Value());
  SamplerOptions sampler;
  sampler.temperature =
      options.greedy ? 0 : choose(options.temperature, config.find("temperature"), 0.7);
  sampler.top_p = choose(options.top_p, config.find("top_p"), 0.9);
  sampler.top_k = choose(options.top_k, config.find("top_k"), 0);
  sampler.seed = options.seed;
  return sampler;
}

class Chat {
 public:
  explicit Chat(const ChatOptions& options)
      : options_(options),
        folder_(options.model),
        text_(load_model_text(folder_, options.chat_template)),
        inference_(folder_, options.open, 1, context()),
        generator_(inference_,
                   {options.max_new_tokens, text_.stop_ids(), sampler_options(options, folder_)}),
        conversation_(text_, options.system) {
    if (!text_.has_template())
      log::info("{} has no chat template: prompts are continued as plain text",
                folder_.path().string());
  }

  // One turn: prints the reply. False when a stop signal cut it short, for which StopSignals is
  // alive.
  bool turn(const std::string& user) {
    const std::vector<std::vector<int32_t>> prompt = {conversation_.ask(user)};
    StreamDecoder decoder(text_.tokenizer(), true);
    std::string content;
    const auto show = [&](const std::string& part) {
      content += part;
      if (!options_.json) print(part);
    };
    const Clock::time_point start = Clock::now();
    Clock::time_point first = start;
    int64_t count = 0;
    Reply reply;
    try {
      reply = generator_
                  .generate(prompt,
                            [&](int64_t, int32_t id) {
                              if (count++ == 0) first = Clock::now();
                              if (!text_.is_stop(id)) show(decoder.push(id));
                              return !StopSignals::requested();
                            })
                  .at(0);
    } catch (...) {
      conversation_.withdraw();
      throw;
    }
    show(decoder.finish());
    conversation_.answer(content);
    // The first token comes with the prompt; the rate is that of the others.
    const double seconds = std::chrono::duration<double>(Clock::now() - first).count();
    const double rate = count > 1 && seconds > 0 ? static_cast<double>(count - 1) / seconds : 0;
    const double prompt_seconds = std::chrono::duration<double>(first - start).count();
    finish_turn(reply, content, std::ssize(prompt[0]), prompt_seconds, rate);
    return reply.finish != Finish::Interrupted;
  }

  // At a terminal: turns and commands until the end of input.
  void interact() {
    print("/system TEXT, /reset, /save FILE, /quit; Ctrl-C stops a reply\n");
    std::string line;
    while (print("> "), std::getline(std::cin, line)) {
      if (line == "/quit") return;
      const StopSignals signals;  // outlives what a turn throws, which does not end the process
      try {
        if (line.starts_with("/"))
          obey(line);
        else if (!line.empty())
          turn(line);
      } catch (const Error& error) {
        // What one turn or file asked wrongly does not end the chat; a broken model does.
        if (error.code() != ErrorCode::Usage && error.code() != ErrorCode::BadInput &&
            error.code() != ErrorCode::Io)
          throw;
        log::error("{}", error.what());
      }
    }
    print("\n");
  }

 private:
  int64_t context() const {
    const int64_t positions = folder_.config().max_positions;
    return options_.context > 0 ? options_.context : std::min(positions, kDefaultContext);
  }

  static void print(std::string_view text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }

  void finish_turn(const Reply& reply, const std::string& content, int64_t prompt_tokens,
                   double prompt_seconds, double rate) const {
    if (options_.json) {
      Value::Array ids(reply.ids.begin(), reply.ids.end());
      const Value object = Value::Object{{"role", "assistant"},
                                         {"content", content},
                                         {"ids", std::move(ids)},
                                         {"finish", name(reply.finish)},
                                         {"prompt_tokens", prompt_tokens},
                                         {"prompt_s", prompt_seconds},
                                         {"tokens_per_s", rate}};
      print(dump_json(object) + "\n");
      return;
    }
    print("\n");
    if (options_.show_ids) print(fmt::format("ids: {}\n", fmt::join(reply.ids, " ")));
    if (reply.finish == Finish::Length)
      log::info("(cut off after {} tokens: --max-new-tokens or the context's end)",
                reply.ids.size());
  }

  void obey(const std::string& line) {
    const size_t space = line.find(' ');
    const std::string command = line.substr(0, space),
                      argument = space == line.npos ? "" : line.substr(space + 1);
    if (command == "/system") {
      conversation_.reset(argument);
    } else if (command == "/reset") {
      conversation_.reset(conversation_.system());
    } else if (command == "/save" && !argument.empty()) {
      write_file(argument, dump_json(Value::Object{{"messages", conversation_.messages()}}) + "\n");
    } else {
      fail(ErrorCode::Usage,
           "unknown command {}; there are /system TEXT, /reset, /save FILE, /quit", escaped(line));
    }
  }

  const ChatOptions& options_;
  ModelFolder folder_;
  ModelText text_;
  Inference inference_;
  Generator generator_;
  Conversation conversation_;
};

ChatOptions chat_options(const CLI::App& command) {
  const auto given = [&]<typename T>(const char* flag, std::optional<T>& out) {
    if (command.count(flag) > 0) out = command.get_option(flag)->as<T>();
  };
  ChatOptions options;
  options.model = command.get_option("--model")->as<std::string>();
  options.system = command.get_option("--system")->as<std::string>();
  options.chat_template = chat_template_option(command);
  options.open = open_options(command);
  given("--prompt", options.prompt);
  given("--temperature", options.temperature);
  given("--top-p", options.top_p);
  given("--top-k", options.top_k);
  options.max_new_tokens = command.get_option("--max-new-tokens")->as<int64_t>();
  options.context = command.get_option("--context")->as<int64_t>();
  options.seed = command.get_option("--seed")->as<uint64_t>();
  options.greedy = command.count("--greedy") > 0;
  options.json = command.count("--json") > 0;
  options.show_ids = command.count("--show-ids") > 0;
  return options;
}

void chat(const ChatOptions& options) {
  Chat session(options);
  bool complete = true;
  if (options.prompt) {
    const StopSignals signals;
    complete = session.turn(*options.prompt);
  } else if (::isatty(STDIN_FILENO) && !options.json) {
    session.interact();
  } else {
    std::string line;
    while (complete && std::getline(std::cin, line)) {
      const StopSignals signals;
      if (!line.empty()) complete = session.turn(line);
    }
  }
  if (!complete) fail(ErrorCode::InterruptedEmpty, "interrupted");
}

}  // namespace

void add_chat(CLI::App& app) {
  CLI::App& command = *app.add_subcommand("chat", "Talk with a model");
  add_model_options(command);
  command.add_option("--prompt", "Answer this and stop")->type_name("TEXT");
  command.add_option("--system", "System message (default: the template's)")->type_name("TEXT");
  command.add_option("--max-new-tokens", "Longest reply")
      ->check(CLI::PositiveNumber)
      ->default_str("512");
  command
      .add_option("--context",
                  "Tokens of the conversation, 0: 4096 or all positions of a smaller model")
      ->check(CLI::NonNegativeNumber)
      ->default_str("0");
  command.add_option("--temperature", "0: greedy (default: generation_config.json, else 0.7)");
  command.add_option("--top-p",
                     "Share of the probability to choose from (generation_config.json, else 0.9)");
  command.add_option("--top-k",
                     "Number of tokens to choose from, 0: all (generation_config.json, else 0)");
  command.add_option("--seed", "Of the sampler")->default_str("42");
  command.add_flag("--greedy")->description("Always the most likely token");
  command.add_flag("--json")->description("One JSON object a turn");
  command.add_flag("--show-ids")->description("Print the token ids of each reply");
  command.callback([&command] { chat(chat_options(command)); });
}

}  // namespace lema
