// Turns rows of several shapes into checked conversations.
#include "data/dialogue.h"

#include <algorithm>
#include <array>
#include <utility>

#include "core/error.h"
#include "formats/json.h"

namespace lema {
namespace {

constexpr std::array<std::string_view, 5> kRoles = {"system", "developer", "user", "assistant",
                                                    "tool"};

// Who speaks in ShareGPT files, as their writers name it.
constexpr std::pair<std::string_view, std::string_view> kSpeakers[] = {
    {"human", "user"},          {"user", "user"},          {"gpt", "assistant"},
    {"assistant", "assistant"}, {"bing", "assistant"},     {"chatgpt", "assistant"},
    {"bard", "assistant"},      {"model", "assistant"},    {"system", "system"},
    {"tool", "tool"},           {"observation", "tool"},   {"function_response", "tool"},
    {"function", "tool"},       {"developer", "developer"}};
constexpr std::string_view kCallSpeaker = "function_call";

void check_message(const Value& message, const std::string& place) {
  if (!message.is_object())
    fail(ErrorCode::BadInput, "{}: found {}, expected object", place, name(message.kind()));
  const Value* role = message.find("role");
  if (!role) fail(ErrorCode::BadInput, "{}: no field \"role\"", place);
  if (!role->is_string())
    fail(ErrorCode::BadInput, "{}.role: found {}, expected string", place, name(role->kind()));
  if (std::find(kRoles.begin(), kRoles.end(), role->as_string()) == kRoles.end())
    fail(ErrorCode::BadInput, "{}.role: found \"{}\", expected one of {}", place,
         escaped(role->as_string()), fmt::join(kRoles, ", "));
  const Value* content = message.find("content");
  if (content && content->is_string()) return;
  // An assistant's message may be tool calls alone.
  const Value* calls = message.find("tool_calls");
  if ((!content || content->is_null()) && role->as_string() == "assistant" && calls &&
      calls->is_array())
    return;
  if (!content) fail(ErrorCode::BadInput, "{}: no field \"content\"", place);
  fail(ErrorCode::BadInput, "{}.content: found {}, expected string", place, name(content->kind()));
}

// JSON text inside a row, as data sets keep tools and arguments.
Value parse_inside(const std::string& text, const std::string& place) {
  try {
    return parse_json(text, place, kJsonLineLimits);
  } catch (const Error& error) {
    fail(ErrorCode::BadInput, "{}: not JSON: {}", place, error.what());
  }
}

Value message(std::string_view role, Value content) {
  return Value::Object{{"role", role}, {"content", std::move(content)}};
}

// The member's text; "" when it is absent or null.
std::string optional_text(const Value& row, std::string_view key) {
  const Value* value = row.find(key);
  if (!value || value->is_null()) return "";
  return field(row, key, Value::Kind::String).as_string();
}

Value tools_of(const Value& row) {
  const Value* given = row.find("tools");
  if (!given || given->is_null()) return {};
  Value tools = *given;
  if (tools.is_string() && tools.as_string().empty()) return {};
  if (tools.is_string() && tools.as_string().find_first_of("[{") == 0)
    tools = parse_inside(tools.as_string(), "tools");
  if (!tools.is_array())
    fail(ErrorCode::BadInput, "tools: found {}, expected array", name(tools.kind()));
  for (size_t i = 0; i < tools.as_array().size(); ++i)
    if (!tools.as_array()[i].is_object())
      fail(ErrorCode::BadInput, "tools[{}]: found {}, expected object", i,
           name(tools.as_array()[i].kind()));
  return tools;
}

Value variables_of(const Value& row) {
  const Value* given = row.find("chat_template_kwargs");
  if (!given || given->is_null()) return {};
  return field(row, "chat_template_kwargs", Value::Kind::Object);
}

// Arguments given as JSON text become the value that the text says, as templates want them.
void read_arguments(Value& call, const std::string& place) {
  if (!call.is_object())
    fail(ErrorCode::BadInput, "{}: found {}, expected object", place, name(call.kind()));
  const Value* function = call.find("function");
  Value body = function ? *function : call;
  if (!body.is_object())
    fail(ErrorCode::BadInput, "{}.function: found {}, expected object", place, name(body.kind()));
  const Value* called = body.find("name");
  if (!called || !called->is_string())
    fail(ErrorCode::BadInput, "{}: the call has no \"name\" that is a string", place);
  const Value* arguments = body.find("arguments");
  if (!arguments || !arguments->is_string()) return;
  const Value parsed = arguments->as_string().empty()
                           ? Value(Value::Object{})
                           : parse_inside(arguments->as_string(), place + ".arguments");
  if (!parsed.is_object())
    fail(ErrorCode::BadInput, "{}.arguments: the text says {}, expected object", place,
         name(parsed.kind()));
  body.set("arguments", parsed);
  if (function)
    call.set("function", body);
  else
    call = body;
}

// Takes "weight" out of a message; true when it is 0.
bool take_weight(Value& message, const std::string& place) {
  const Value* weight = message.find("weight");
  if (!weight) return false;
  const bool known = weight->is_null() || (weight->is_number() &&
                                           (weight->as_number() == 0 || weight->as_number() == 1));
  if (!known)
    fail(ErrorCode::BadInput, "{}.weight: found {}, expected 0 or 1", place,
         dump_json(*weight).substr(0, 40));
  const bool left_out = weight->is_number() && weight->as_number() == 0;
  std::erase_if(message.as_object(), [](const auto& member) { return member.first == "weight"; });
  return left_out;
}

// The calls of a text, {"name", "arguments"} as JSON or an array of them, as tool_calls.
Value calls_of(Value said) {
  if (!said.is_array()) said = Value(Value::Array{said});
  Value::Array calls;
  for (Value& call : said.as_array())
    calls.push_back(Value::Object{{"type", "function"}, {"function", std::move(call)}});
  return calls;
}

// OpenAI's older names: "function_call" {"name", "arguments"} and answers of the role "function".
void modernise(Value& turn, const std::string& place) {
  if (!turn.is_object()) return;
  if (const Value* role = turn.find("role");
      role && role->is_string() && role->as_string() == "function")
    turn.set("role", "tool");
  const Value* found = turn.find("function_call");
  if (!found) return;
  const Value call = *found;
  std::erase_if(turn.as_object(),
                [](const auto& member) { return member.first == "function_call"; });
  if (call.is_null()) return;
  if (!call.is_object())
    fail(ErrorCode::BadInput, "{}.function_call: found {}, expected object", place,
         name(call.kind()));
  if (turn.find("tool_calls"))
    fail(ErrorCode::BadInput, "{}: both \"tool_calls\" and \"function_call\"; give one", place);
  turn.set("tool_calls", calls_of(call));
}

// Checks the messages and brings each into the form that templates read.
void prepare(Dialogue& dialogue) {
  auto& messages = dialogue.messages.as_array();
  for (size_t i = 0; i < messages.size(); ++i)
    modernise(messages[i], fmt::format("messages[{}]", i));
  check_messages(dialogue.messages);
  dialogue.untrained.resize(messages.size());
  Value as_given = dialogue.messages;
  bool differs = false;
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string place = fmt::format("messages[{}]", i);
    if (take_weight(messages[i], place)) dialogue.untrained[i] = 1;
    as_given.as_array()[i] = messages[i];
    const Value* given = messages[i].find("tool_calls");
    if (!given || given->is_null()) continue;
    if (!given->is_array())
      fail(ErrorCode::BadInput, "{}.tool_calls: found {}, expected array", place,
           name(given->kind()));
    Value calls = *given;
    for (size_t k = 0; k < calls.as_array().size(); ++k)
      read_arguments(calls.as_array()[k], fmt::format("{}.tool_calls[{}]", place, k));
    differs = differs || calls != *messages[i].find("tool_calls");
    messages[i].set("tool_calls", std::move(calls));
  }
  if (differs) dialogue.as_given = std::move(as_given);
}

// A turn's members under the names of a message; what else it holds (tool calls, reasoning, a
// weight) stays.
Value sharegpt_message(const Value& turn, const std::string& place) {
  if (!turn.is_object())
    fail(ErrorCode::BadInput, "{}: found {}, expected object", place, name(turn.kind()));
  const bool as_chat = !turn.find("from") && turn.find("role");
  const std::string_view who = as_chat ? "role" : "from", what = as_chat ? "content" : "value";
  const Value* speaker = turn.find(who);
  if (!speaker) fail(ErrorCode::BadInput, "{}: no field \"{}\"", place, who);
  if (!speaker->is_string())
    fail(ErrorCode::BadInput, "{}.{}: found {}, expected string", place, who,
         name(speaker->kind()));
  const Value* said = turn.find(what);
  const bool calls = as_chat && speaker->as_string() != kCallSpeaker &&
                     (turn.find("tool_calls") || turn.find("function_call"));
  if (!said && !calls) fail(ErrorCode::BadInput, "{}: no field \"{}\"", place, what);
  if (!calls && !said->is_string())
    fail(ErrorCode::BadInput, "{}.{}: found {}, expected string", place, what, name(said->kind()));
  Value::Object rest;
  for (const auto& [key, value] : turn.as_object())
    if (key != who && key != what) rest.emplace_back(key, value);

  Value result;
  if (speaker->as_string() == kCallSpeaker) {
    result = message("assistant", "");
    result.set("tool_calls",
               calls_of(parse_inside(said->as_string(), place + "." + std::string(what))));
  } else {
    const auto* known =
        std::find_if(std::begin(kSpeakers), std::end(kSpeakers),
                     [&](const auto& pair) { return pair.first == speaker->as_string(); });
    if (known == std::end(kSpeakers)) {
      std::string names;
      for (const auto& [theirs, ours] : kSpeakers) names += fmt::format("{}, ", theirs);
      fail(ErrorCode::BadInput,
           "{}.{}: found \"{}\", expected one of {}{} (or name it in data.map)", place, who,
           escaped(speaker->as_string()), names, kCallSpeaker);
    }
    result = message(known->second, said ? *said : Value());
  }
  result.merge(std::move(rest));
  return result;
}

// A row's own "system" is the first message; one that the messages begin with must say the same.
void take_system(const Value& row, Value::Array& messages) {
  const std::string system = optional_text(row, "system");
  if (system.empty()) return;
  const Value* role =
      messages.empty() || !messages[0].is_object() ? nullptr : messages[0].find("role");
  if (role && role->is_string() && role->as_string() == "system") {
    const Value* content = messages[0].find("content");
    if (content && content->is_string() && content->as_string() == system) return;
    fail(ErrorCode::BadInput,
         "system: the row's own field and its first message give different system prompts");
  }
  messages.insert(messages.begin(), message("system", system));
}

}  // namespace

const Value& field(const Value& object, std::string_view key, Value::Kind kind) {
  const Value* value = object.find(key);
  if (!value) fail(ErrorCode::BadInput, "no field \"{}\"", key);
  if (value->kind() != kind)
    fail(ErrorCode::BadInput, "{}: found {}, expected {}", key, name(value->kind()), name(kind));
  return *value;
}

bool is_answer(const Value& message) { return message.find("role")->as_string() == "assistant"; }

std::string_view reasoning_of(const Value& message) {
  for (const char* key : {"reasoning_content", "thinking", "reasoning"})
    if (const Value* found = message.find(key); found && found->is_string())
      return found->as_string();
  return "";
}

void check_messages(const Value& messages) {
  if (!messages.is_array())
    fail(ErrorCode::BadInput, "messages: found {}, expected array", name(messages.kind()));
  if (messages.as_array().empty()) fail(ErrorCode::BadInput, "messages: the array is empty");
  for (size_t i = 0; i < messages.as_array().size(); ++i)
    check_message(messages.as_array()[i], fmt::format("messages[{}]", i));
}

Dialogue chat_dialogue(const Value& row) {
  Value::Array messages = field(row, "messages", Value::Kind::Array).as_array();
  take_system(row, messages);
  Dialogue dialogue{std::move(messages), tools_of(row), variables_of(row)};
  prepare(dialogue);
  return dialogue;
}

Dialogue alpaca_dialogue(const Value& row) {
  const std::string& instruction = field(row, "instruction", Value::Kind::String).as_string();
  const std::string& output = field(row, "output", Value::Kind::String).as_string();
  if (instruction.empty()) fail(ErrorCode::BadInput, "instruction: the text is empty");
  if (output.empty()) fail(ErrorCode::BadInput, "output: the text is empty");
  Value::Array messages;
  if (const std::string system = optional_text(row, "system"); !system.empty())
    messages.push_back(message("system", system));
  if (const Value* history = row.find("history"); history && !history->is_null()) {
    const Value::Array& turns = field(row, "history", Value::Kind::Array).as_array();
    for (size_t i = 0; i < turns.size(); ++i) {
      const bool is_pair = turns[i].is_array() && turns[i].as_array().size() == 2 &&
                           turns[i].as_array()[0].is_string() && turns[i].as_array()[1].is_string();
      if (!is_pair)
        fail(ErrorCode::BadInput, "history[{}]: expected two strings: what was asked and answered",
             i);
      messages.push_back(message("user", turns[i].as_array()[0]));
      messages.push_back(message("assistant", turns[i].as_array()[1]));
    }
  }
  const std::string input = optional_text(row, "input");
  messages.push_back(message("user", input.empty() ? instruction : instruction + "\n\n" + input));
  messages.push_back(message("assistant", output));
  Dialogue dialogue{std::move(messages), tools_of(row), variables_of(row)};
  prepare(dialogue);
  return dialogue;
}

Dialogue sharegpt_dialogue(const Value& row) {
  const Value::Array& turns = field(row, "conversations", Value::Kind::Array).as_array();
  if (turns.empty()) fail(ErrorCode::BadInput, "conversations: the array is empty");
  Value::Array messages;
  for (size_t i = 0; i < turns.size(); ++i)
    messages.push_back(sharegpt_message(turns[i], fmt::format("conversations[{}]", i)));
  take_system(row, messages);
  Dialogue dialogue{std::move(messages), tools_of(row), variables_of(row)};
  prepare(dialogue);
  return dialogue;
}

Dialogue completion_dialogue(const Value& row) {
  Value::Array messages = field(row, "prompt", Value::Kind::Array).as_array();
  const Value::Array& answer = field(row, "completion", Value::Kind::Array).as_array();
  if (answer.empty()) fail(ErrorCode::BadInput, "completion: the array is empty");
  take_system(row, messages);
  const size_t asked = messages.size();
  messages.insert(messages.end(), answer.begin(), answer.end());
  Dialogue dialogue{std::move(messages), tools_of(row), variables_of(row)};
  prepare(dialogue);
  std::fill_n(dialogue.untrained.begin(), asked, uint8_t{1});
  return dialogue;
}

}  // namespace lema
