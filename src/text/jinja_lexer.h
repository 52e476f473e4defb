// Splits a chat template into text and tag tokens, with jinja2's white-space control (trim_blocks
// and lstrip_blocks on, "-" and "+" signs). Called by the parser only.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace lema::jinja {

enum class TokenKind {
  Text,
  VariableBegin,
  VariableEnd,
  BlockBegin,
  BlockEnd,
  Name,
  String,
  Integer,
  Float,
  Operator,
  End
};

struct Token {
  TokenKind kind = TokenKind::End;
  int line = 1;
  std::string text;  // text, name, decoded string, digits without "_", or the operator

  bool is_name(std::string_view name) const { return kind == TokenKind::Name && text == name; }
  bool is_operator(std::string_view op) const { return kind == TokenKind::Operator && text == op; }
};

// BadInput "chat template: line L: ..." on what jinja2's lexer refuses. Ends with one End token.
std::vector<Token> tokenize_template(std::string_view source);

}  // namespace lema::jinja
