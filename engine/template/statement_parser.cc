#include <algorithm>

#include "engine/template/expression_parser.h"

namespace strata::engine::jinja {
namespace {

class StatementParser {
 public:
  explicit StatementParser(std::string_view source)
      : tokens_(tokenize(source)), expressions_(tokens_, names_) {}

  SyntaxTree run() {
    SyntaxTree tree;
    tree.body = block({});
    tree.names = names_.take();
    return tree;
  }

 private:
  // Statements up to a block tag with one of these names, which is left standing at its name; all
  // of the rest where there are none.
  Block block(std::initializer_list<std::string_view> ends) {
    const TokenStream::Level level(tokens_);
    Block statements;
    while (true) {
      const Token& token = tokens_.peek();
      const uint32_t line = token.line;
      if (token.kind == TokenKind::kEnd) {
        if (ends.size() == 0) return statements;
        tokens_.fail_expected(fmt::format("'{}'", *(ends.end() - 1)));
      } else if (token.kind == TokenKind::kText) {
        statements.push_back({line, Output{tokens_.take().text}});
      } else if (token.kind == TokenKind::kPrintBegin) {
        tokens_.take();
        statements.push_back({line, Print{expressions_.tuple_or_expression(true)}});
        tokens_.expect(TokenKind::kPrintEnd, "'}}'");
      } else {
        tokens_.expect(TokenKind::kBlockBegin, "'{%'");
        const Token& name = tokens_.peek();
        if (name.kind == TokenKind::kName &&
            std::find(ends.begin(), ends.end(), name.text) != ends.end()) {
          return statements;
        }
        statements.push_back(statement(line));
      }
    }
  }

  void end_tag() { tokens_.expect(TokenKind::kBlockEnd, "'%}'"); }

  // A block that ends with `end`; both tags' ends are consumed.
  Block body_until(std::string_view end) {
    end_tag();
    Block body = block({end});
    tokens_.expect_name(end);
    return body;
  }

  Statement statement(uint32_t line) {
    const std::string name = tokens_.peek().kind == TokenKind::kName ? tokens_.peek().text : "";
    Statement made{line, Break{}};
    if (name == "if") {
      made.node = if_statement();
    } else if (name == "for") {
      made.node = for_statement();
    } else if (name == "set") {
      set_statement(made);
    } else if (name == "macro") {
      made.node = macro();
    } else if (name == "call") {
      made.node = call_block();
    } else if (name == "filter") {
      made.node = filter_block();
    } else if (name == "do") {
      tokens_.take();
      made.node = DoStatement{expressions_.tuple_or_expression(true)};
    } else if (name == "generation") {
      tokens_.take();
      made.node = GenerationBlock{body_until("endgeneration")};
    } else if (name == "break" || name == "continue") {
      if (loop_level_ == 0) tokens_.fail(fmt::format("'{}' stands outside of a loop", name));
      tokens_.take();
      if (name == "continue") made.node = Continue{};
    } else {
      tokens_.fail_expected(
          "a statement (if, for, set, macro, call, filter, do, generation, break, continue)");
    }
    end_tag();
    return made;
  }

  IfStatement if_statement() {
    IfStatement made;
    while (true) {
      tokens_.take();  // if, elif
      ExpressionPtr condition = expressions_.tuple_or_expression(false);
      end_tag();
      Block body = block({"elif", "else", "endif"});
      made.branches.emplace_back(std::move(condition), std::move(body));
      if (!tokens_.peek().is_name("elif")) break;
    }
    if (tokens_.skip_name("else")) {
      end_tag();
      made.otherwise = block({"endif"});
    }
    tokens_.expect_name("endif");
    return made;
  }

  ForStatement for_statement() {
    tokens_.take();
    ForStatement made;
    made.target = expressions_.target(false);
    tokens_.expect_name("in");
    made.items = expressions_.tuple_or_expression(false);
    if (tokens_.skip_name("if")) made.filter = expressions_.expression();
    made.is_recursive = tokens_.skip_name("recursive");
    end_tag();
    ++loop_level_;
    made.body = block({"else", "endfor"});
    --loop_level_;
    if (tokens_.skip_name("else")) {
      end_tag();
      made.otherwise = block({"endfor"});
    }
    tokens_.expect_name("endfor");
    return made;
  }

  void set_statement(Statement& made) {
    tokens_.take();
    Target target = expressions_.target(true);
    if (tokens_.skip_symbol("=")) {
      made.node = SetStatement{std::move(target), expressions_.tuple_or_expression(true)};
      return;
    }
    SetBlock set{std::move(target), nullptr, {}};
    if (tokens_.skip_symbol("|")) set.filter = expressions_.filter_chain();
    set.body = body_until("endset");
    made.node = std::move(set);
  }

  // The body of a macro or call block is no part of the loop around it.
  void macro_body(MacroDefinition& macro, std::string_view end) {
    const uint32_t outside = std::exchange(loop_level_, 0);
    macro.body = body_until(end);
    loop_level_ = outside;
  }

  MacroStatement macro() {
    tokens_.take();
    MacroStatement made;
    made.macro.name = tokens_.take_name("a macro's name");
    made.symbol = names_.intern(made.macro.name);
    made.macro.parameters = expressions_.parameters();
    macro_body(made.macro, "endmacro");
    return made;
  }

  CallBlock call_block() {
    tokens_.take();
    CallBlock made;
    made.caller.name = "caller";
    if (tokens_.peek().is_symbol("(")) made.caller.parameters = expressions_.parameters();
    made.call = expressions_.expression();
    if (!std::holds_alternative<Call>(made.call->node)) tokens_.fail("a call block wants a call");
    macro_body(made.caller, "endcall");
    return made;
  }

  FilterBlock filter_block() {
    tokens_.take();
    FilterBlock made;
    made.filter = expressions_.filter_chain();
    made.body = body_until("endfilter");
    return made;
  }

  TokenStream tokens_;
  NameTable names_;
  ExpressionParser expressions_;
  uint32_t loop_level_ = 0;
};

}  // namespace

SyntaxTree parse_template(std::string_view source) {
  if (source.size() > kMaxSourceBytes) {
    fail_at(1, 1,
            fmt::format("the template has {} bytes, more than the limit of {}", source.size(),
                        kMaxSourceBytes));
  }
  return StatementParser(source).run();
}

}  // namespace strata::engine::jinja
