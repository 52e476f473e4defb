// `lema eval`: measures a model, or a model with an adapter: its loss on a data set, or how many of
// its replies match a pattern. The work is generate/row_losses and generate/match.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <string>

#include "cli/commands.h"
#include "cli/options.h"
#include "core/file.h"
#include "core/log.h"
#include "core/signals.h"
#include "formats/json.h"
#include "generate/match.h"
#include "generate/row_logits.h"
#include "generate/row_losses.h"

namespace lema {
namespace {

struct EvalOptions {
  std::string model, data, task, output, chat_template, pattern;
  OpenOptions open;
  RunConfig::Data rows;
  int64_t batch = 0, max_new_tokens = 0;
  bool json = false, token_logprobs = false, require_stop = false;
};

// Refuses what an output file would overwrite before any work is done.
void check_output(const EvalOptions& options) {
  std::error_code error;
  if (!options.output.empty() && fs::equivalent(options.output, options.data, error))
    fail(ErrorCode::Usage, "--output is the data file {}", options.data);
  if (options.task == "logits" && fs::exists(options.output))
    fail(ErrorCode::Usage, "--output {}: exists already", options.output);
}

void write_rows(const std::string& path, const std::vector<Value>& rows) {
  std::string lines;
  for (const Value& row : rows) lines += dump_json(row) + "\n";
  write_file(path, lines);
}

// Shown now and then; false once a stop signal has come.
class Progress {
 public:
  explicit Progress(int64_t rows) : rows_(rows) {}
  bool operator()(int64_t done) {
    const auto now = std::chrono::steady_clock::now();
    if (now >= next_ && done < rows_) {
      log::info("{} of {} rows", done, rows_);
      next_ = now + std::chrono::seconds(10);
    }
    return !StopSignals::requested();
  }

 private:
  int64_t rows_;
  std::chrono::steady_clock::time_point next_ =
      std::chrono::steady_clock::now() + std::chrono::seconds(10);
};

Dataset load_rows(const EvalOptions& options, const ModelFolder& folder) {
  RunConfig::Data rows = options.rows;
  if (rows.max_tokens == 0) rows.max_tokens = folder.config().max_positions;
  return load_dataset({options.data}, rows, load_model_text(folder, options.chat_template));
}

void evaluate_logits(const EvalOptions& options, const ModelFolder& folder) {
  if (options.output.empty())
    fail(ErrorCode::Usage, "--task logits needs --output FILE.safetensors");
  const Dataset dataset = load_rows(options, folder);
  Progress progress(std::ssize(dataset.rows));
  write_row_logits(folder, options.open, dataset, options.output, [&](int64_t done) {
    if (!progress(done)) fail(ErrorCode::InterruptedEmpty, "interrupted after {} rows", done);
  });
}

void evaluate_loss(const EvalOptions& options, const ModelFolder& folder) {
  const Dataset dataset = load_rows(options, folder);
  Progress progress(std::ssize(dataset.rows));
  const std::vector<RowLoss> losses = row_losses(folder, options.open, dataset, [&](int64_t done) {
    if (!progress(done)) fail(ErrorCode::InterruptedEmpty, "interrupted after {} rows", done);
  });

  double sum = 0;
  int64_t tokens = 0;
  std::vector<Value> output;
  for (const RowLoss& row : losses) {
    double row_sum = 0;
    Value::Array logprobs;
    for (float loss : row.losses) {
      row_sum += static_cast<double>(loss);
      logprobs.push_back(-static_cast<double>(loss));
    }
    if (!std::isfinite(row_sum))
      fail(ErrorCode::Numeric, "{}:{}: the loss is {}", options.data, row.line, row_sum);
    const auto count = std::ssize(row.losses);
    sum += row_sum;
    tokens += count;
    Value line =
        Value::Object{{"line", row.line},
                      {"loss", count > 0 ? Value(row_sum / static_cast<double>(count)) : Value()},
                      {"tokens", int64_t{count}}};
    if (options.token_logprobs) line.set("token_logprobs", logprobs);
    output.push_back(std::move(line));
  }
  if (!options.output.empty()) write_rows(options.output, output);
  const double loss = sum / static_cast<double>(tokens), perplexity = std::exp(loss);
  if (options.json) {
    const Value summary =
        Value::Object{{"task", "loss"},
                      {"rows", int64_t{std::ssize(losses)}},
                      {"tokens", tokens},
                      {"loss", loss},
                      {"perplexity", std::isfinite(perplexity) ? Value(perplexity) : Value()}};
    fmt::print("{}\n", dump_json(summary));
  } else {
    fmt::print("loss {:.6f}, perplexity {:.4f} over {} trained tokens in {} rows\n", loss,
               perplexity, tokens, losses.size());
  }
}

void evaluate_match(const EvalOptions& options, const ModelFolder& folder) {
  const ModelText text = load_model_text(folder, options.chat_template);
  std::optional<Pattern> common;
  if (!options.pattern.empty()) common.emplace(options.pattern, "--pattern");
  const int64_t positions = folder.config().max_positions;
  const std::vector<MatchRow> rows =
      read_match_rows(options.data, text, common.has_value(), positions);
  int64_t longest = 0;
  for (const MatchRow& row : rows) longest = std::max<int64_t>(longest, std::ssize(row.prompt));
  const int64_t capacity = longest + std::min(options.max_new_tokens, positions - longest);
  Inference inference(folder, options.open, std::min<int64_t>(options.batch, std::ssize(rows)),
                      capacity);
  Generator generator(inference, {options.max_new_tokens, text.stop_ids(), {}});

  const auto start = std::chrono::steady_clock::now();
  Progress progress(std::ssize(rows));
  const std::vector<MatchedReply> replies = match_replies(
      rows, common ? &*common : nullptr, options.require_stop, text, generator, std::ref(progress));
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

  if (!options.output.empty()) {
    std::vector<Value> output;
    for (const MatchedReply& reply : replies)
      output.push_back(Value::Object{{"line", reply.line},
                                     {"reply", reply.reply},
                                     {"matched", reply.matched},
                                     {"finish", name(reply.finish)}});
    write_rows(options.output, output);
  }
  const MatchSummary s = summarise(replies);
  const double tokens_per_s = static_cast<double>(s.tokens) / seconds;
  if (options.json) {
    const Value summary = Value::Object{{"task", "match"},
                                        {"rows", s.rows},
                                        {"matched", s.matched},
                                        {"match_share", s.share(s.matched)},
                                        {"stop_share", s.share(s.stopped)},
                                        {"distinct_share", s.share(s.distinct)},
                                        {"tokens", s.tokens},
                                        {"tokens_per_s", tokens_per_s}};
    fmt::print("{}\n", dump_json(summary));
  } else {
    fmt::print(
        "matched {} of {} replies ({:.1f} %); ended by a stop token {:.1f} %, distinct {:.1f} %; "
        "{} tokens, {:.1f} tokens/s\n",
        s.matched, s.rows, 100 * s.share(s.matched), 100 * s.share(s.stopped),
        100 * s.share(s.distinct), s.tokens, tokens_per_s);
  }
}

EvalOptions eval_options(const CLI::App& command) {
  const auto text = [&](const char* flag) { return command.get_option(flag)->as<std::string>(); };
  const auto number = [&](const char* flag) { return command.get_option(flag)->as<int64_t>(); };
  EvalOptions options;
  options.model = text("--model");
  options.data = text("--data");
  options.task = text("--task");
  options.output = text("--output");
  options.chat_template = chat_template_option(command);
  options.pattern = text("--pattern");
  options.open = open_options(command);
  options.rows.format = text("--format");
  options.rows.max_tokens = number("--max-tokens");
  options.rows.train_on = text("--train-on");
  for (const std::string& entry : command.get_option("--map")->results()) {
    const size_t equals = entry.find('=');
    if (equals == entry.npos)
      fail(ErrorCode::Usage, "--map: found \"{}\", expected NAME=FIELD", escaped(entry));
    options.rows.map.emplace_back(entry.substr(0, equals), entry.substr(equals + 1));
  }
  options.batch = number("--batch");
  options.max_new_tokens = number("--max-new-tokens");
  options.json = command.count("--json") > 0;
  options.token_logprobs = command.count("--token-logprobs") > 0;
  options.require_stop = command.count("--require-stop") > 0;
  return options;
}

void evaluate(const EvalOptions& options) {
  check_output(options);
  const StopSignals signals;
  const ModelFolder folder(options.model);
  if (options.task == "loss")
    evaluate_loss(options, folder);
  else if (options.task == "logits")
    evaluate_logits(options, folder);
  else
    evaluate_match(options, folder);
}

}  // namespace

void add_eval(CLI::App& app) {
  CLI::App& command =
      *app.add_subcommand("eval", "Loss on a data set, or replies that match a pattern");
  add_model_options(command);
  command.add_option("--data", "Rows: a data file or a folder of them")
      ->required()
      ->type_name("FILE");
  command
      .add_option("--task",
                  "loss: of the trained tokens; match: greedy replies against a pattern; logits: "
                  "of every position, as safetensors in --output")
      ->required()
      ->check(CLI::IsMember({"loss", "match", "logits"}));
  command
      .add_option("--output",
                  "One JSON object a row (logits: the tensors, a file that must not exist)")
      ->type_name("FILE");
  command.add_flag("--json")->description("Print the summary as JSON");
  command.add_option("--format", "loss, logits: format of the rows")
      ->check(CLI::IsMember(
          {"auto", "text", "completion", "chat", "alpaca", "sharegpt", "tokens"}))
      ->default_str("auto");
  command
      .add_option("--map", "loss, logits: lema's name of a field or role = the file's; repeatable")
      ->type_name("NAME=FIELD")
      ->take_all();
  command.add_option("--max-tokens", "loss, logits: longest row, 0: the model's positions")
      ->check(CLI::NonNegativeNumber)
      ->default_str("0");
  command.add_option("--train-on", "loss: which tokens of chat rows count")
      ->check(CLI::IsMember({"completions", "last", "each", "all"}))
      ->default_str("completions");
  command.add_flag("--token-logprobs")
      ->description("loss: log-probability of each trained token in --output");
  command.add_option("--pattern", "match: PCRE2 pattern; a row's \"match\" goes before it")
      ->type_name("REGEX");
  command.add_flag("--require-stop")
      ->description("match: count only replies that a stop token ended");
  command.add_option("--batch", "match: replies generated at once")
      ->check(CLI::Range(1, 4096))
      ->default_str("16");
  command.add_option("--max-new-tokens", "match: longest reply")
      ->check(CLI::PositiveNumber)
      ->default_str("128");
  command.callback([&command] { evaluate(eval_options(command)); });
}

}  // namespace lema
