// Whether a rendered conversation says what its messages say: templates leave out what they do not
// know (tool calls, a system prompt, reasoning), and a row would then teach something else. Called
// by chat_mask.cpp for every conversation that is trained.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "data/dialogue.h"

namespace lema {

// What is said of conversations that are trained all the same.
enum class Remark : uint8_t {
  Unprompted,     // an answer begins otherwise than the template's prompt makes a chat begin
  EndUntrained,   // no stop token is trained at the end of one of the answers
  SystemLost,     // the template writes no system prompt
  ToolsLost,      // it does not write the tools
  ReasoningLost,  // nor the reasoning of an answer
  TurnLost,       // nor a tool's result, or an answer that carries no loss
};
// "an answer begins otherwise ...": as it follows "3 rows: ".
inline constexpr std::array<std::string_view, 6> kRemarkTexts = {
    "an answer begins otherwise than the template's prompt makes a chat begin (it opens the "
    "reasoning, say)",
    "an answer does not end in a trained stop token",
    "the chat template leaves the system prompt out",
    "the chat template leaves the tools out",
    "the chat template leaves the reasoning of an answer out",
    "the chat template leaves a tool's result or an untrained answer out"};

class Remarks {
 public:
  void add(Remark remark) { bits_ |= 1u << static_cast<unsigned>(remark); }
  bool has(size_t remark) const { return bits_ >> remark & 1u; }
  bool has(Remark remark) const { return has(static_cast<size_t>(remark)); }

 private:
  uint32_t bits_ = 0;
};

// `trained`: per message, 1 where an answer carries a loss. BadInput, naming the message, where a
// user's text, a trained answer or a call of it is not in the rendering; what else is missing is
// added to `remarks`.
void check_written(const Dialogue& dialogue, const std::vector<uint8_t>& trained,
                   std::string_view rendered, Remarks& remarks);

}  // namespace lema
