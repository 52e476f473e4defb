// Turns and their rendering.
#include "generate/conversation.h"

#include "core/error.h"

namespace lema {
namespace {

Value message(const char* role, const std::string& content) {
  return Value::Object{{"role", role}, {"content", content}};
}

}  // namespace

Conversation::Conversation(const ModelText& text, const std::string& system) : text_(text) {
  reset(system);
}

void Conversation::reset(const std::string& system) {
  if (!system.empty() && !text_.has_template())
    fail(ErrorCode::Usage,
         "a system message needs a chat template, and the model has none (see --chat-template)");
  system_ = system;
  messages_.clear();
  if (!system.empty()) messages_.push_back(message("system", system));
  plain_.clear();
}

std::vector<int32_t> Conversation::ask(const std::string& user) {
  plain_before_ = plain_;
  if (text_.has_template())
    messages_.push_back(message("user", user));
  else
    plain_ += user;
  try {
    return prompt();
  } catch (...) {
    withdraw();
    throw;
  }
}

void Conversation::answer(const std::string& reply) {
  if (text_.has_template())
    messages_.push_back(message("assistant", reply));
  else
    plain_ += reply;
}

void Conversation::withdraw() {
  if (text_.has_template())
    messages_.pop_back();
  else
    plain_ = plain_before_;
}

std::vector<int32_t> Conversation::prompt() const {
  if (!text_.has_template()) return text_.encode(plain_, true).ids;
  return text_.encode(text_.render_chat(messages_, Value(), true), false).ids;
}

Value Conversation::messages() const {
  if (text_.has_template()) return messages_;
  return Value::Array{message("text", plain_)};
}

}  // namespace lema
