// Detects the shape of a row and encodes it, one function for each kind of row.
#include "data/row_shapes.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "core/hash.h"
#include "data/chat_mask.h"
#include "formats/json.h"

namespace lema {
namespace {

constexpr int64_t kIgnoredLabel = -100;  // torch.nn.CrossEntropyLoss's ignore_index

// The fields that name a shape; the first shape whose fields a row has is its own.
struct ShapeFields {
  std::string_view format;
  std::array<std::string_view, 2> fields;
};
constexpr ShapeFields kShapes[] = {{"chat", {"messages", ""}},
                                   {"sharegpt", {"conversations", ""}},
                                   {"completion", {"prompt", "completion"}},
                                   {"alpaca", {"instruction", "output"}},
                                   {"text", {"text", ""}},
                                   {"tokens", {"tokens", ""}},
                                   {"tokens", {"input_ids", ""}}};

// What data.map may name, by where it stands.
constexpr std::string_view kRowFields[] = {
    "text",        "prompt",    "completion", "messages", "tools",         "chat_template_kwargs",
    "instruction", "input",     "output",     "system",   "history",       "conversations",
    "tokens",      "input_ids", "labels",     "mask",     "attention_mask"};
constexpr std::string_view kMessageFields[] = {
    "role",          "content",           "from",   "value", "tool_calls",
    "function_call", "reasoning_content", "weight", "name"};
constexpr std::string_view kRoleNames[] = {"system",    "developer",   "user",
                                           "assistant", "tool",        "human",
                                           "gpt",       "observation", "function_call"};
constexpr std::string_view kTurnLists[] = {"messages", "conversations", "prompt", "completion"};

template <size_t N>
bool is_one_of(std::string_view word, const std::string_view (&list)[N]) {
  return std::find(std::begin(list), std::end(list), word) != std::end(list);
}

std::string fields_text(const ShapeFields& shape) {
  return shape.fields[1].empty()
             ? fmt::format("\"{}\"", shape.fields[0])
             : fmt::format("\"{}\" and \"{}\"", shape.fields[0], shape.fields[1]);
}

// Renames the members of one object by the entries of the map whose names are in `known`.
template <size_t N>
void rename_members(Value& object, const OrderedMap<std::string>& map,
                    const std::string_view (&known)[N], std::vector<uint8_t>& used) {
  if (!object.is_object()) return;
  const Value before = object;
  Value::Object renamed;
  for (size_t i = 0; i < map.size(); ++i) {
    const auto& [ours, theirs] = map[i];
    const Value* found = is_one_of(ours, known) ? before.find(theirs) : nullptr;
    if (!found) continue;
    used[i] = 1;
    renamed.emplace_back(ours, *found);
    std::erase_if(object.as_object(), [&](const auto& member) { return member.first == theirs; });
  }
  for (auto& [ours, value] : renamed) object.set(ours, std::move(value));
}

void rename_turns(Value& row, const OrderedMap<std::string>& map, std::vector<uint8_t>& used) {
  for (const std::string_view list : kTurnLists) {
    const Value* found = row.find(list);
    if (!found || !found->is_array()) continue;
    Value turns = *found;
    for (Value& turn : turns.as_array()) {
      rename_members(turn, map, kMessageFields, used);
      for (const char* key : {"role", "from"}) {
        const Value* role = turn.find(key);
        if (!role || !role->is_string()) continue;
        for (size_t i = 0; i < map.size(); ++i) {
          if (!is_one_of(map[i].first, kRoleNames) || map[i].second != role->as_string()) continue;
          used[i] = 1;
          turn.set(key, map[i].first);
          break;
        }
      }
    }
    row.set(list, std::move(turns));
  }
}

// Element i of an array of integers (booleans count as 0 and 1).
int64_t element(const Value::Array& array, size_t i, std::string_view key) {
  if (array[i].is_bool()) return array[i].as_bool();
  if (!array[i].is_int())
    fail(ErrorCode::BadInput, "{}[{}]: found {}, expected integer", key, i, name(array[i].kind()));
  return array[i].as_int();
}

const Value::Array* parallel_array(const Value& object, std::string_view key, size_t length) {
  const Value* value = object.find(key);
  if (!value) return nullptr;
  const Value::Array& array = field(object, key, Value::Kind::Array).as_array();
  if (array.size() != length)
    fail(ErrorCode::BadInput, "{}: found {} elements, expected one per token: {}", key,
         array.size(), length);
  return &array;
}

// A text as a row of its own. A text that begins with the BOS token which the tokenizer adds has it
// once.
Tokenizer::Encoding encode_text(const std::string& string, const ModelText& text) {
  Tokenizer::Encoding encoding = text.encode(string, true);
  if (encoding.ids.size() > 1 && encoding.ids[0] == encoding.ids[1] &&
      text.tokenizer().is_special(encoding.ids[0]) &&
      string.starts_with(text.tokenizer().token(encoding.ids[0]))) {
    const Tokenizer::Encoding alone = text.encode(string, false);
    if (alone.ids.size() + 1 <= encoding.ids.size() && alone.ids[0] == encoding.ids[0] &&
        (alone.ids.size() == 1 || alone.ids[1] != alone.ids[0])) {
      encoding.ids.erase(encoding.ids.begin());
      encoding.begins.erase(encoding.begins.begin());
    }
  }
  return encoding;
}

void append_eos(Row& row, const RunConfig::Data& options, const ModelText& text) {
  if (!options.append_eos.value_or(true)) return;
  if (!text.eos_id())
    fail(ErrorCode::Usage,
         "data.append_eos: neither tokenizer_config.json (eos_token) nor config.json "
         "(eos_token_id) names an EOS "
         "token; set it, or data.append_eos = false");
  // A tokenizer's own post-processor may have added it.
  if (!row.ids.empty() && row.ids.back() == *text.eos_id()) return;
  row.ids.push_back(*text.eos_id());
  row.trained.push_back(1);
}

Row text_row(const Value& object, const RunConfig::Data& options, const ModelText& text) {
  Row row;
  row.ids = encode_text(field(object, "text", Value::Kind::String).as_string(), text).ids;
  row.trained.assign(row.ids.size(), 1);
  append_eos(row, options, text);
  return row;
}

// Prompt and completion are encoded at once; the mask begins where the completion does.
Row completion_row(const Value& object, const RunConfig::Data& options, const ModelText& text) {
  const std::string& prompt = field(object, "prompt", Value::Kind::String).as_string();
  const std::string& completion = field(object, "completion", Value::Kind::String).as_string();
  if (completion.empty()) fail(ErrorCode::BadInput, "completion: the text is empty");
  for (const char* other : {"system", "tools"})
    if (const Value* value = object.find(other); value && !value->is_null() && *value != Value(""))
      fail(ErrorCode::BadInput,
           "{}: beside a prompt and a completion that are texts; give both as arrays of messages",
           other);
  const Tokenizer::Encoding whole = encode_text(prompt + completion, text);
  const bool train_all = options.train_on == "all";
  if (!train_all && !is_token_prefix(encode_text(prompt, text), whole, prompt.size()))
    fail(ErrorCode::BadInput,
         "the prompt has other tokens alone than with the completion after it (does the prompt end "
         "in white space? it belongs at the start of the completion)");
  Row row;
  row.ids = whole.ids;
  row.trained.resize(row.ids.size());
  for (size_t t = 0; t < row.ids.size(); ++t)
    row.trained[t] = train_all || static_cast<size_t>(whole.begins[t]) >= prompt.size();
  append_eos(row, options, text);
  return row;
}

// An answer that would teach to say nothing.
void refuse_empty_answers(const Dialogue& dialogue, bool last_only) {
  const Value::Array& messages = dialogue.messages.as_array();
  const auto later = std::find_if(messages.rbegin(), messages.rend(), is_answer);
  const size_t last = static_cast<size_t>(messages.rend() - later);  // 1 + the last answer's place
  for (size_t i = last_only && last > 0 ? last - 1 : 0; i < messages.size(); ++i) {
    const Value* content = messages[i].find("content");
    const Value* calls = messages[i].find("tool_calls");
    if (!is_answer(messages[i]) || dialogue.untrained[i] || !reasoning_of(messages[i]).empty())
      continue;
    if (calls && calls->is_array() && !calls->as_array().empty()) continue;
    if (!content || content->is_null() || content->as_string().empty())
      fail(ErrorCode::BadInput,
           "messages[{}].content: the text is empty (\"weight\": 0 leaves it "
           "untrained)",
           i);
  }
}

Row dialogue_row(const Dialogue& dialogue, const std::string& train_on,
                 const RunConfig::Data& options, const ModelText& text) {
  const LengthRule rule = {options.max_tokens, options.too_long == "truncate"};
  ChatEncoding chat = encode_chat(dialogue, false, train_on, text, rule);
  Row row;
  row.ids = std::move(chat.ids);
  row.trained = std::move(chat.trained);
  row.first_stop = chat.first_stop;
  row.remarks = chat.remarks;
  if (std::ssize(row.ids) > rule.max_tokens) return row;  // the length rules come first
  if (std::find(row.trained.begin(), row.trained.end(), 1) == row.trained.end())
    fail(ErrorCode::BadInput, "no trained token: {}",
         std::any_of(dialogue.messages.as_array().begin(), dialogue.messages.as_array().end(),
                     is_answer)
             ? "every answer has weight 0 or lies outside the template's {% generation %} blocks"
             : "no message of the assistant");
  if (!trains_stop(row))
    fail(ErrorCode::BadInput,
         "no stop token is trained at the end of an answer (stop ids of the model: {}): a model "
         "trained on this row would not learn to stop",
         text.stop_ids().empty() ? "none" : fmt::format("{}", fmt::join(text.stop_ids(), ", ")));
  return row;
}

// Under train_on "each" every trained answer ends a row of its own: the conversation up to it.
std::vector<Row> dialogue_rows(const Dialogue& dialogue, const RunConfig::Data& options,
                               const ModelText& text) {
  refuse_empty_answers(dialogue, options.train_on == "last");
  if (options.train_on != "each") return {dialogue_row(dialogue, options.train_on, options, text)};
  std::vector<Row> rows;
  const Value::Array& messages = dialogue.messages.as_array();
  for (size_t i = 0; i < messages.size(); ++i) {
    if (!is_answer(messages[i]) || dialogue.untrained[i]) continue;
    const auto first = [&](const Value& all) {
      if (all.is_null()) return Value();
      const auto begin = all.as_array().begin();
      return Value(Value::Array(begin, begin + static_cast<std::ptrdiff_t>(i) + 1));
    };
    Dialogue part = dialogue;
    part.messages = first(dialogue.messages);
    part.as_given = first(dialogue.as_given);
    part.untrained.resize(i + 1);
    rows.push_back(dialogue_row(part, "last", options, text));
  }
  if (rows.empty()) fail(ErrorCode::BadInput, "no trained token: no message of the assistant");
  return rows;
}

Row tokens_row(const Value& object, const ModelText& text) {
  if (object.find("tokens") && object.find("input_ids"))
    fail(ErrorCode::BadInput, "both \"tokens\" and \"input_ids\"; give one");
  if (object.find("labels") && object.find("mask"))
    fail(ErrorCode::BadInput, "both \"labels\" and \"mask\"; give one");
  const std::string_view key = object.find("input_ids") ? "input_ids" : "tokens";
  const Value::Array& ids = field(object, key, Value::Kind::Array).as_array();
  Row row;
  row.ids.reserve(ids.size());
  for (size_t t = 0; t < ids.size(); ++t) {
    const int64_t id = ids[t].is_bool() ? -1 : element(ids, t, key);
    if (id < 0 || id >= text.V())
      fail(ErrorCode::BadInput, "{}[{}]: found {}, expected an id below the vocabulary's {}", key,
           t, id, text.V());
    row.ids.push_back(static_cast<int32_t>(id));
  }
  row.trained.assign(row.ids.size(), 1);
  if (const Value::Array* attended = parallel_array(object, "attention_mask", ids.size()))
    for (size_t t = 0; t < ids.size(); ++t)
      if (element(*attended, t, "attention_mask") != 1)
        fail(ErrorCode::BadInput,
             "attention_mask[{}]: found {}, expected 1: rows are packed, leave padding out", t,
             element(*attended, t, "attention_mask"));
  if (const Value::Array* labels = parallel_array(object, "labels", ids.size())) {
    for (size_t t = 0; t < ids.size(); ++t) {
      const int64_t label = element(*labels, t, "labels");
      row.trained[t] = label != kIgnoredLabel;
      if (label != kIgnoredLabel && label != row.ids[t])
        fail(ErrorCode::BadInput,
             "labels[{}]: found {}, expected {} (the same token, unshifted) or -100", t, label,
             row.ids[t]);
    }
  }
  if (const Value::Array* mask = parallel_array(object, "mask", ids.size())) {
    for (size_t t = 0; t < ids.size(); ++t) {
      const int64_t trained = element(*mask, t, "mask");
      if (trained != 0 && trained != 1)
        fail(ErrorCode::BadInput, "mask[{}]: found {}, expected 0 or 1", t, trained);
      row.trained[t] = trained == 1;
    }
  }
  return row;
}

}  // namespace

std::optional<DetectedShape> detect_shape(const Value& row) {
  const auto has = [&](const ShapeFields& shape) {
    return std::all_of(shape.fields.begin(), shape.fields.end(), [&](std::string_view key) {
      const Value* found = key.empty() ? nullptr : row.find(key);
      return key.empty() || (found && !found->is_null());
    });
  };
  std::optional<DetectedShape> detected;
  std::string others;
  for (const ShapeFields& shape : kShapes) {
    if (!has(shape)) continue;
    if (!detected)
      detected = {std::string(shape.format), "by " + fields_text(shape)};
    else if (shape.format != detected->format)
      others += (others.empty() ? ", not by " : " or ") + fields_text(shape);
  }
  if (detected) detected->reason += others;
  return detected;
}

void check_map(const OrderedMap<std::string>& map) {
  for (const auto& [ours, theirs] : map) {
    if (!is_one_of(ours, kRowFields) && !is_one_of(ours, kMessageFields) &&
        !is_one_of(ours, kRoleNames))
      fail(ErrorCode::Usage,
           "data.map: \"{}\" is none of lema's fields ({}; of a message {}) or roles ({})",
           escaped(ours), fmt::join(kRowFields, ", "), fmt::join(kMessageFields, ", "),
           fmt::join(kRoleNames, ", "));
    if (theirs.empty()) fail(ErrorCode::Usage, "data.map.{}: the name is empty", escaped(ours));
  }
}

Value apply_map(const Value& row, const OrderedMap<std::string>& map, std::vector<uint8_t>& used) {
  if (map.empty()) return row;
  used.resize(map.size());
  Value mapped = row;
  rename_members(mapped, map, kRowFields, used);
  rename_turns(mapped, map, used);
  return mapped;
}

uint64_t row_content(const Value& row) {
  Value::Object said;
  for (const auto& [key, value] : row.as_object())
    if (is_one_of(key, kRowFields)) said.emplace_back(key, value);
  const std::string hash = sha256(dump_json(Value(std::move(said)), -1, true));
  return std::stoull(hash.substr(0, 16), nullptr, 16);
}

bool is_read(std::string_view field) { return is_one_of(field, kRowFields); }

bool is_dialogue(const std::string& format, const Value& row) {
  if (format != "completion") return format != "text" && format != "tokens";
  const Value* prompt = row.find("prompt");
  return prompt && prompt->is_array();
}

bool trains_stop(const Row& row) {
  return row.first_stop > 0 && row.first_stop < std::ssize(row.ids);
}

std::optional<Dialogue> dialogue_of(const std::string& format, const Value& row) {
  if (!is_dialogue(format, row)) return std::nullopt;
  if (format == "chat") return chat_dialogue(row);
  if (format == "alpaca") return alpaca_dialogue(row);
  return format == "sharegpt" ? sharegpt_dialogue(row) : completion_dialogue(row);
}

std::vector<Row> encode_row(const std::string& format, const Value& row,
                            const RunConfig::Data& options, const ModelText& text) {
  if (const auto dialogue = dialogue_of(format, row))
    return dialogue_rows(*dialogue, options, text);
  if (format == "completion") return {completion_row(row, options, text)};
  return {format == "text" ? text_row(row, options, text) : tokens_row(row, text)};
}

}  // namespace lema
