// Conversation: the messages of a chat and the token ids that the model is to continue. Chat keeps
// one; a model without chat template continues plain text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/value.h"
#include "data/model_text.h"

namespace lema {

class Conversation {
 public:
  // `text` outlives the conversation. `system` "" leaves the system message to the template. Usage
  // error for a system message where there is no template.
  Conversation(const ModelText& text, const std::string& system);

  // Adds the user's turn and returns the whole conversation as the prompt for the reply. When it
  // throws (a template that refuses the conversation) the conversation is as before.
  std::vector<int32_t> ask(const std::string& user);
  // Adds the reply to the last ask().
  void answer(const std::string& reply);
  // Takes the last ask() back.
  void withdraw();
  // Begins again, with another system message.
  void reset(const std::string& system);

  const std::string& system() const { return system_; }
  // Array of {role, content}; of a model without template one message {"role": "text", ...}.
  Value messages() const;

 private:
  std::vector<int32_t> prompt() const;

  const ModelText& text_;
  std::string system_;
  Value::Array messages_;
  std::string plain_,
      plain_before_;  // without template: all text so far, and that before the last ask()
};

}  // namespace lema
