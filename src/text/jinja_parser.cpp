// The statements of a chat template: text, output and blocks, each block a recursion bounded by
// kMaxParseDepth.
#include "text/jinja_parser.h"

#include "text/jinja_expr_parser.h"

namespace lema::jinja {
namespace {

using Words = std::initializer_list<std::string_view>;

class Parser : ExprParser {
 public:
  using ExprParser::ExprParser;

  Template run() {
    template_.body = parse_body({});
    return std::move(template_);
  }

 private:
  // Until a tag that starts with one of `ends`; that word stays the next token. Without `ends`: to
  // the end.
  Body parse_body(Words ends) {
    const Depth depth(*this);
    Body body;
    for (;;) {
      const int line = peek().line;
      switch (peek().kind) {
        case TokenKind::Text: {
          Stmt& s = body.emplace_back(Stmt{.kind = Stmt::Kind::Text, .line = line});
          s.text = take().text;
          break;
        }
        case TokenKind::VariableBegin: {
          take();
          Stmt s{.kind = Stmt::Kind::Output, .line = line};
          s.exprs.push_back(parse_tuple());
          expect(TokenKind::VariableEnd, "'}}'");
          body.push_back(std::move(s));
          break;
        }
        case TokenKind::BlockBegin:
          take();
          for (const std::string_view end : ends)
            if (peek().is_name(end)) return body;
          body.push_back(parse_statement());
          expect(TokenKind::BlockEnd, "'%}'");
          break;
        default:
          if (ends.size()) error("found {}, expected '{}'", found(), *(ends.end() - 1));
          return body;
      }
    }
  }

  // The rest of an opening tag, the body and the closing word; the closing tag's end is left to
  // parse_body.
  Body parse_block(std::string_view end) {
    expect(TokenKind::BlockEnd, "'%}'");
    Body body = parse_body({end});
    expect_name(end);
    return body;
  }

  template <typename Parse>
  Body outside_loops(Parse parse) {
    const int loops = std::exchange(loops_, 0);
    Body result = parse();
    loops_ = loops;
    return result;
  }

  Stmt parse_statement() {
    const int line = peek().line;
    const std::string word = expect_any_name();
    if (word == "if") return parse_if(line);
    if (word == "for") return parse_for(line);
    if (word == "set") return parse_set(line);
    if (word == "with") return parse_with(line);
    if (word == "macro") return parse_macro(line);
    if (word == "call") return parse_call_block(line);
    Stmt s{.kind = Stmt::Kind::Break, .line = line};
    if (word == "filter") {
      s.kind = Stmt::Kind::FilterBlock;
      s.exprs.push_back(parse_filter(make(Kind::Piped, line)));
      s.bodies.push_back(parse_block("endfilter"));
    } else if (word == "generation") {
      s.kind = Stmt::Kind::Generation;
      template_.has_generation = true;
      s.bodies.push_back(outside_loops([&] { return parse_block("endgeneration"); }));
    } else if (word == "break" || word == "continue") {
      if (loops_ == 0) error("'{}' outside of a loop", word);
      if (word == "continue") s.kind = Stmt::Kind::Continue;
    } else {
      for (const char* known :
           {"include", "import", "from", "extends", "block", "autoescape", "do", "trans"})
        if (word == known) error("the tag '{}' is not supported", word);
      error("unknown tag '{}'", escaped(word));
    }
    return s;
  }

  Stmt parse_if(int line) {
    Stmt s{.kind = Stmt::Kind::If, .line = line};
    for (;;) {
      s.exprs.push_back(parse_tuple(false));
      expect(TokenKind::BlockEnd, "'%}'");
      ++conditionals_;
      s.bodies.push_back(parse_body({"elif", "else", "endif"}));
      --conditionals_;
      if (!skip_name("elif")) break;
    }
    if (skip_name("else")) {
      ++conditionals_;
      s.bodies.push_back(parse_block("endif"));
      --conditionals_;
    } else {
      expect_name("endif");
    }
    return s;
  }

  Stmt parse_for(int line) {
    Stmt s{.kind = Stmt::Kind::For, .line = line};
    s.targets.push_back(parse_target(false));
    expect_name("in");
    s.exprs.push_back(parse_tuple(false));
    s.exprs.push_back(skip_name("if") ? parse_expression() : nullptr);
    if (peek().is_name("recursive")) error("recursive loops are not supported");
    expect(TokenKind::BlockEnd, "'%}'");
    ++loops_;
    s.bodies.push_back(parse_body({"else", "endfor"}));
    --loops_;
    if (skip_name("else")) {
      s.bodies.push_back(parse_block("endfor"));
    } else {
      expect_name("endfor");
      s.bodies.emplace_back();
    }
    return s;
  }

  Stmt parse_set(int line) {
    Stmt s{.kind = Stmt::Kind::Set, .line = line};
    s.targets.push_back(parse_target(true));
    if (skip_operator("=")) {
      s.exprs.push_back(parse_tuple());
      return s;
    }
    s.kind = Stmt::Kind::SetBlock;
    s.exprs.push_back(peek().is_operator("|") ? parse_filter_chain(make(Kind::Piped, line))
                                              : nullptr);
    s.bodies.push_back(parse_block("endset"));
    return s;
  }

  Stmt parse_with(int line) {
    Stmt s{.kind = Stmt::Kind::With, .line = line};
    while (peek().kind != TokenKind::BlockEnd) {
      if (!s.targets.empty()) expect_operator(",");
      s.targets.push_back(parse_target(false));
      expect_operator("=");
      s.exprs.push_back(parse_expression());
    }
    s.bodies.push_back(parse_block("endwith"));
    return s;
  }

  // Names, or nested tuples of them; with `with_namespace` also name.attribute.
  ExprPtr parse_target(bool with_namespace) {
    const int line = peek().line;
    ExprPtr first = parse_target_item(with_namespace);
    if (!peek().is_operator(",")) return first;
    ExprPtr tuple = wrap(Kind::Tuple, line, std::move(first));
    while (skip_operator(",")) {
      if (peek().is_name("in") || peek().is_operator("=") || peek().is_operator(")")) break;
      add(*tuple, parse_target_item(with_namespace));
    }
    return tuple;
  }

  ExprPtr parse_target_item(bool with_namespace) {
    const Depth depth(*this);
    const int line = peek().line;
    if (skip_operator("(")) {
      ExprPtr inner = parse_target(with_namespace);
      expect_operator(")");
      return inner;
    }
    const std::string name = expect_any_name();
    for (const char* constant : {"true", "false", "none", "True", "False", "None"})
      if (name == constant) error("cannot assign to '{}'", name);
    ExprPtr e = name_node(name, line);
    if (with_namespace && skip_operator(".")) {
      e->kind = Kind::NsRef;
      e->text = expect_any_name();
    }
    return e;
  }

  void parse_parameters(Stmt& macro) {
    expect_operator("(");
    while (!peek().is_operator(")")) {
      if (!macro.targets.empty()) expect_operator(",");
      const int line = peek().line;
      macro.targets.push_back(name_node(expect_any_name(), line));
      if (skip_operator("=")) {
        macro.exprs.push_back(parse_expression());
      } else if (!macro.exprs.empty()) {
        error("a parameter without default follows one with a default");
      }
    }
    take();
  }

  void parse_macro_body(Stmt& macro, std::string_view end) {
    const bool outer[] = {uses_varargs_, uses_kwargs_, uses_caller_};
    uses_varargs_ = uses_kwargs_ = uses_caller_ = false;
    macro.bodies.push_back(outside_loops([&] { return parse_block(end); }));
    macro.uses_varargs = uses_varargs_;
    macro.uses_kwargs = uses_kwargs_;
    macro.uses_caller = uses_caller_;
    uses_varargs_ |= outer[0];  // jinja2 looks for these names in nested macros too
    uses_kwargs_ |= outer[1];
    uses_caller_ |= outer[2];
  }

  Stmt parse_macro(int line) {
    Stmt s{.kind = Stmt::Kind::Macro, .line = line};
    s.text = expect_any_name();
    s.id = intern(s.text);
    parse_parameters(s);
    parse_macro_body(s, "endmacro");
    return s;
  }

  Stmt parse_call_block(int line) {
    Stmt s{.kind = Stmt::Kind::CallBlock, .line = line};
    Stmt caller{.kind = Stmt::Kind::Macro, .line = line};
    caller.text = "caller";
    if (peek().is_operator("(")) parse_parameters(caller);
    s.exprs.push_back(parse_expression());
    if (s.exprs[0]->kind != Kind::Call) error("expected a call");
    parse_macro_body(caller, "endcall");
    s.macro.push_back(std::move(caller));
    return s;
  }

  int loops_ = 0;  // loops around the current statement, for break and continue
};

}  // namespace

Template parse_template(std::string_view source) { return Parser(source).run(); }

}  // namespace lema::jinja
