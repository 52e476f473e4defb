// Parses the expressions of a chat template; the statement parser derives from it. Chains (a + b +
// c, x and y and z) become flat lists, so that the depth of the tree, which bounds the evaluator's
// stack, is the depth of nesting that kMaxParseDepth counts.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "text/jinja_ast.h"
#include "text/jinja_lexer.h"

namespace lema::jinja {

class ExprParser {
 public:
  explicit ExprParser(std::string_view source) : tokens_(tokenize_template(source)) {
    for (const char* name : {"loop", "caller", "varargs", "kwargs"}) intern(name);
  }

 protected:
  using Kind = Expr::Kind;

  // --- tokens ---
  const Token& peek(size_t ahead = 0) const {
    return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
  }
  const Token& take() {
    const Token& token = peek();
    if (at_ + 1 < tokens_.size()) ++at_;
    return token;
  }
  template <typename... Args>
  [[noreturn]] void error(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorCode::BadInput, "chat template: line {}: {}", peek().line,
         fmt::format(format, std::forward<Args>(args)...));
  }
  std::string found() const {
    switch (peek().kind) {
      case TokenKind::End:
        return "the end of the template";
      case TokenKind::BlockEnd:
      case TokenKind::VariableEnd:
        return "the end of the tag";
      default:
        return "'" + escaped(peek().text) + "'";
    }
  }
  bool skip_operator(std::string_view op) {
    if (!peek().is_operator(op)) return false;
    take();
    return true;
  }
  bool skip_name(std::string_view name) {
    if (!peek().is_name(name)) return false;
    take();
    return true;
  }
  void expect_operator(std::string_view op) {
    if (!skip_operator(op)) error("found {}, expected '{}'", found(), op);
  }
  void expect_name(std::string_view name) {
    if (!skip_name(name)) error("found {}, expected '{}'", found(), name);
  }
  std::string expect_any_name() {
    if (peek().kind != TokenKind::Name) error("found {}, expected a name", found());
    return take().text;
  }
  void expect(TokenKind kind, std::string_view what) {
    if (peek().kind != kind) error("found {}, expected {}", found(), what);
    take();
  }

  int intern(const std::string& name) {
    const auto [entry, is_first] = ids_.emplace(name, static_cast<int>(template_.names.size()));
    if (is_first) template_.names.push_back(name);
    return entry->second;
  }

  // Counts nesting of statements and expressions while it lives.
  struct Depth {
    explicit Depth(ExprParser& parser) : p(parser) {
      if (++p.depth_ > kMaxParseDepth) p.error("nested deeper than {}", kMaxParseDepth);
    }
    ~Depth() { --p.depth_; }
    ExprParser& p;
  };

  // --- nodes ---
  ExprPtr make(Kind kind, int line) const {
    auto e = std::make_unique<Expr>();
    e->kind = kind;
    e->line = line;
    return e;
  }
  void add(Expr& parent, ExprPtr child) const {
    if (child) parent.height = std::max(parent.height, child->height + 1);
    if (parent.height > kMaxParseDepth) error("nested deeper than {}", kMaxParseDepth);
    parent.args.push_back(std::move(child));
  }
  ExprPtr wrap(Kind kind, int line, ExprPtr child) const {
    ExprPtr e = make(kind, line);
    add(*e, std::move(child));
    return e;
  }
  ExprPtr name_node(const std::string& name, int line) {
    ExprPtr e = make(Kind::Name, line);
    e->text = name;
    e->id = intern(name);
    uses_varargs_ |= e->id == kVarargsId;
    uses_kwargs_ |= e->id == kKwargsId;
    uses_caller_ |= e->id == kCallerId;
    return e;
  }
  ExprPtr constant(Obj value, int line) const {
    ExprPtr e = make(Kind::Const, line);
    e->value = value;
    return e;
  }

  // --- expressions, from the loosest operator to the tightest ---
  bool ends_tuple() const;
  // One expression, or several with commas: a tuple.
  ExprPtr parse_tuple(bool with_conditional = true, bool in_parentheses = false);
  ExprPtr parse_expression();
  ExprPtr parse_or();
  ExprPtr parse_and();
  ExprPtr parse_not();
  bool take_comparison(Op& op);
  ExprPtr parse_compare();
  // A left-associative chain of the given operators over `next`.
  template <typename Next>
  ExprPtr parse_chain(std::initializer_list<std::pair<std::string_view, Op>> ops, Next next) {
    const int line = peek().line;
    ExprPtr left = next();
    ExprPtr chain;
    for (bool found_one = true; found_one;) {
      found_one = false;
      for (const auto& [text, op] : ops) {
        if (!skip_operator(text)) continue;
        if (!chain) chain = wrap(Kind::Arith, line, std::move(left));
        chain->ops.push_back(op);
        add(*chain, next());
        found_one = true;
        break;
      }
    }
    return chain ? std::move(chain) : std::move(left);
  }
  ExprPtr parse_sum();
  ExprPtr parse_concat();
  ExprPtr parse_product();
  ExprPtr parse_unary(bool with_filters);
  ExprPtr parse_primary();
  ExprPtr parse_name();
  ExprPtr parse_list();
  ExprPtr parse_dict();
  ExprPtr parse_postfix(ExprPtr e);
  ExprPtr parse_attribute(ExprPtr base);
  ExprPtr parse_subscript(ExprPtr base);
  void parse_arguments(Expr& call);
  ExprPtr parse_filters_and_tests(ExprPtr e);
  // `e | a | b`, the next token being "|".
  ExprPtr parse_filter_chain(ExprPtr e);
  // `a | b` of a filter block: the first name has no "|".
  ExprPtr parse_filter(ExprPtr piped);
  std::string parse_dotted_name();
  ExprPtr parse_one_filter(ExprPtr e);
  bool starts_test_argument() const;
  ExprPtr parse_test(ExprPtr e);

  std::vector<Token> tokens_;
  size_t at_ = 0;
  Template template_;
  std::unordered_map<std::string, int> ids_;
  int depth_ = 0;
  int conditionals_ =
      0;  // inside an `if`, where jinja2 accepts unknown filters until they are reached
  bool uses_varargs_ = false, uses_kwargs_ = false, uses_caller_ = false;
};

}  // namespace lema::jinja
