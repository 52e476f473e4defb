// Recursive descent over the operators of jinja2's expressions, each level calling the next tighter
// one.
#include "text/jinja_expr_parser.h"

#include <charconv>
#include <cstdlib>

#include "text/jinja_filters.h"

namespace lema::jinja {

bool ExprParser::ends_tuple() const {
  const TokenKind kind = peek().kind;
  return kind == TokenKind::VariableEnd || kind == TokenKind::BlockEnd || peek().is_operator(")");
}

ExprPtr ExprParser::parse_tuple(bool with_conditional, bool in_parentheses) {
  const int line = peek().line;
  ExprPtr tuple = make(Kind::Tuple, line);
  bool is_tuple = false;
  while (!ends_tuple()) {
    add(*tuple, with_conditional ? parse_expression() : parse_or());
    if (!skip_operator(",")) break;
    is_tuple = true;
  }
  if (is_tuple) return tuple;
  if (!tuple->args.empty()) return std::move(tuple->args[0]);
  if (!in_parentheses) error("found {}, expected an expression", found());
  return tuple;
}

ExprPtr ExprParser::parse_expression() {
  const Depth depth(*this);
  const int line = peek().line;
  ExprPtr value = parse_or();
  while (skip_name("if")) {
    ++conditionals_;
    ExprPtr e = wrap(Kind::Cond, line, std::move(value));
    add(*e, parse_or());
    add(*e, skip_name("else") ? parse_expression() : nullptr);
    --conditionals_;
    value = std::move(e);
  }
  return value;
}

ExprPtr ExprParser::parse_or() {
  const int line = peek().line;
  ExprPtr left = parse_and();
  if (!peek().is_name("or")) return left;
  ExprPtr e = wrap(Kind::Or, line, std::move(left));
  while (skip_name("or")) add(*e, parse_and());
  return e;
}

ExprPtr ExprParser::parse_and() {
  const int line = peek().line;
  ExprPtr left = parse_not();
  if (!peek().is_name("and")) return left;
  ExprPtr e = wrap(Kind::And, line, std::move(left));
  while (skip_name("and")) add(*e, parse_not());
  return e;
}

ExprPtr ExprParser::parse_not() {
  const int line = peek().line;
  if (!skip_name("not")) return parse_compare();
  const Depth depth(*this);
  return wrap(Kind::Not, line, parse_not());
}

bool ExprParser::take_comparison(Op& op) {
  static const std::pair<std::string_view, Op> kOps[] = {
      {"==", Op::Eq}, {"!=", Op::Ne}, {"<", Op::Lt}, {"<=", Op::Le}, {">", Op::Gt}, {">=", Op::Ge}};
  for (const auto& [text, value] : kOps) {
    if (!skip_operator(text)) continue;
    op = value;
    return true;
  }
  op = Op::In;
  if (skip_name("in")) return true;
  if (!peek().is_name("not") || !peek(1).is_name("in")) return false;
  take();
  take();
  op = Op::NotIn;
  return true;
}

ExprPtr ExprParser::parse_compare() {
  const int line = peek().line;
  ExprPtr left = parse_sum();
  Op op{};
  ExprPtr chain;
  while (take_comparison(op)) {
    if (!chain) chain = wrap(Kind::Compare, line, std::move(left));
    chain->ops.push_back(op);
    add(*chain, parse_sum());
  }
  return chain ? std::move(chain) : std::move(left);
}

ExprPtr ExprParser::parse_sum() {
  return parse_chain({{"+", Op::Add}, {"-", Op::Sub}}, [&] { return parse_concat(); });
}

ExprPtr ExprParser::parse_concat() {
  const int line = peek().line;
  ExprPtr left = parse_product();
  if (!peek().is_operator("~")) return left;
  ExprPtr e = wrap(Kind::Concat, line, std::move(left));
  while (skip_operator("~")) add(*e, parse_product());
  return e;
}

ExprPtr ExprParser::parse_product() {
  return parse_chain({{"*", Op::Mul}, {"/", Op::Div}, {"//", Op::FloorDiv}, {"%", Op::Mod}}, [&] {
    return parse_chain({{"**", Op::Pow}}, [&] { return parse_unary(true); });
  });
}

ExprPtr ExprParser::parse_unary(bool with_filters) {
  const Depth depth(*this);
  const int line = peek().line;
  ExprPtr e;
  if (skip_operator("-")) {
    e = wrap(Kind::Neg, line, parse_unary(false));
  } else if (skip_operator("+")) {
    e = wrap(Kind::Pos, line, parse_unary(false));
  } else {
    e = parse_primary();
  }
  e = parse_postfix(std::move(e));
  return with_filters ? parse_filters_and_tests(std::move(e)) : std::move(e);
}

ExprPtr ExprParser::parse_primary() {
  const Token& token = peek();
  switch (token.kind) {
    case TokenKind::Name:
      return parse_name();
    case TokenKind::String: {
      ExprPtr e = make(Kind::Const, token.line);
      while (peek().kind == TokenKind::String) e->text += take().text;
      e->value = Obj::string(e->text);
      return e;
    }
    case TokenKind::Integer: {
      int64_t value = 0;
      const auto [end, code] =
          std::from_chars(token.text.data(), token.text.data() + token.text.size(), value);
      if (code != std::errc{}) error("the number {} is too large", escaped(token.text));
      return constant(Obj::integer(value), take().line);
    }
    case TokenKind::Float: {
      const double value = std::strtod(token.text.c_str(), nullptr);
      return constant(Obj::real(value), take().line);
    }
    default:
      break;
  }
  if (skip_operator("(")) {
    ExprPtr e = parse_tuple(true, true);
    expect_operator(")");
    return e;
  }
  if (token.is_operator("[")) return parse_list();
  if (token.is_operator("{")) return parse_dict();
  error("found {}, expected an expression", found());
}

ExprPtr ExprParser::parse_name() {
  const Token& token = take();
  if (token.text == "true" || token.text == "True") return constant(Obj::boolean(true), token.line);
  if (token.text == "false" || token.text == "False")
    return constant(Obj::boolean(false), token.line);
  if (token.text == "none" || token.text == "None") return constant(Obj::none(), token.line);
  return name_node(token.text, token.line);
}

ExprPtr ExprParser::parse_list() {
  ExprPtr list = make(Kind::List, take().line);
  while (!peek().is_operator("]")) {
    if (!list->args.empty()) expect_operator(",");
    if (peek().is_operator("]")) break;
    add(*list, parse_expression());
  }
  take();
  return list;
}

ExprPtr ExprParser::parse_dict() {
  ExprPtr dict = make(Kind::Dict, take().line);
  while (!peek().is_operator("}")) {
    if (!dict->args.empty()) expect_operator(",");
    if (peek().is_operator("}")) break;
    add(*dict, parse_expression());
    expect_operator(":");
    add(*dict, parse_expression());
  }
  take();
  return dict;
}

ExprPtr ExprParser::parse_postfix(ExprPtr e) {
  for (;;) {
    if (peek().is_operator(".")) {
      e = parse_attribute(std::move(e));
    } else if (peek().is_operator("[")) {
      e = parse_subscript(std::move(e));
    } else if (peek().is_operator("(")) {
      e = wrap(Kind::Call, peek().line, std::move(e));
      parse_arguments(*e);
    } else {
      return e;
    }
  }
}

ExprPtr ExprParser::parse_attribute(ExprPtr base) {
  const int line = take().line;
  if (peek().kind == TokenKind::Integer) {
    ExprPtr item = wrap(Kind::Item, line, std::move(base));
    add(*item, parse_primary());
    return item;
  }
  ExprPtr e = wrap(Kind::Attr, line, std::move(base));
  e->text = expect_any_name();
  return e;
}

ExprPtr ExprParser::parse_subscript(ExprPtr base) {
  const int line = take().line;
  ExprPtr e = wrap(Kind::Item, line, std::move(base));
  if (peek().is_operator("]")) error("an empty subscript");
  ExprPtr start = peek().is_operator(":") ? nullptr : parse_expression();
  if (peek().is_operator(":")) {
    e->kind = Kind::Slice;
    add(*e, std::move(start));
    for (int part = 0; part < 2; ++part) {
      const bool is_given =
          skip_operator(":") && !peek().is_operator(":") && !peek().is_operator("]");
      add(*e, is_given ? parse_expression() : nullptr);
    }
  } else if (peek().is_operator(",")) {
    ExprPtr tuple = wrap(Kind::Tuple, line, std::move(start));
    while (skip_operator(",")) add(*tuple, parse_expression());
    add(*e, std::move(tuple));
  } else {
    add(*e, std::move(start));
  }
  expect_operator("]");
  return e;
}

void ExprParser::parse_arguments(Expr& call) {
  const Depth depth(*this);
  expect_operator("(");
  for (bool is_first = true; !peek().is_operator(")"); is_first = false) {
    if (!is_first) expect_operator(",");
    if (peek().is_operator(")")) break;
    const bool is_double = peek().is_operator("**");
    if (is_double || peek().is_operator("*")) {
      ExprPtr& star = is_double ? call.star_star : call.star;
      if (star || (call.star_star && !is_double)) error("a repeated '{}' argument", peek().text);
      take();
      star = parse_expression();
      call.height = std::max(call.height, star->height + 1);
    } else if (peek().kind == TokenKind::Name && peek(1).is_operator("=")) {
      std::string name = take().text;
      take();
      if (call.named.size() == kMaxKeywords) error("more than {} keyword arguments", kMaxKeywords);
      for (const auto& [other, value] : call.named)
        if (other == name) error("the keyword argument '{}' is repeated", escaped(name));
      ExprPtr value = parse_expression();
      call.height = std::max(call.height, value->height + 1);
      call.named.emplace_back(std::move(name), std::move(value));
    } else {
      if (!call.named.empty() || call.star || call.star_star)
        error("a positional argument after a keyword argument");
      add(call, parse_expression());
    }
  }
  take();
  if (call.height > kMaxParseDepth) error("nested deeper than {}", kMaxParseDepth);
}

ExprPtr ExprParser::parse_filters_and_tests(ExprPtr e) {
  for (;;) {
    if (peek().is_operator("|")) {
      e = parse_filter_chain(std::move(e));
    } else if (peek().is_name("is")) {
      e = parse_test(std::move(e));
    } else if (peek().is_operator("(")) {
      e = wrap(Kind::Call, peek().line, std::move(e));
      parse_arguments(*e);
    } else {
      return e;
    }
  }
}

ExprPtr ExprParser::parse_filter_chain(ExprPtr e) {
  while (skip_operator("|")) e = parse_one_filter(std::move(e));
  return e;
}

ExprPtr ExprParser::parse_filter(ExprPtr piped) {
  return parse_filter_chain(parse_one_filter(std::move(piped)));
}

std::string ExprParser::parse_dotted_name() {
  std::string name = expect_any_name();
  while (skip_operator(".")) name += "." + expect_any_name();
  return name;
}

ExprPtr ExprParser::parse_one_filter(ExprPtr e) {
  const int line = peek().line;
  ExprPtr filter = wrap(Kind::Filter, line, std::move(e));
  filter->text = parse_dotted_name();
  if (conditionals_ == 0 && !is_filter(filter->text))
    error("there is no filter '{}'", escaped(filter->text));
  if (peek().is_operator("(")) parse_arguments(*filter);
  return filter;
}

bool ExprParser::starts_test_argument() const {
  switch (peek().kind) {
    case TokenKind::Name:
      return !peek().is_name("else") && !peek().is_name("or") && !peek().is_name("and");
    case TokenKind::String:
    case TokenKind::Integer:
    case TokenKind::Float:
      return true;
    default:
      return peek().is_operator("[") || peek().is_operator("{");
  }
}

ExprPtr ExprParser::parse_test(ExprPtr e) {
  const int line = take().line;
  const bool is_negated = skip_name("not");
  ExprPtr test = wrap(Kind::Test, line, std::move(e));
  test->text = parse_dotted_name();
  if (conditionals_ == 0 && !is_test(test->text))
    error("there is no test '{}'", escaped(test->text));
  if (peek().is_operator("(")) {
    parse_arguments(*test);
  } else if (starts_test_argument()) {
    if (peek().is_name("is")) error("tests cannot be chained");
    add(*test, parse_postfix(parse_primary()));
  }
  return is_negated ? wrap(Kind::Not, line, std::move(test)) : std::move(test);
}

}  // namespace lema::jinja
