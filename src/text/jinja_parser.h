// Parses a chat template into its tree: jinja2's grammar with the loop controls and the {%
// generation %} block of transformers. Called by ChatTemplate's constructor.
#pragma once

#include <string_view>

#include "text/jinja_ast.h"

namespace lema::jinja {

// BadInput "chat template: line L: ..." on a syntax error, an unknown filter or test (inside an
// `if` they fail when reached, as in jinja2), and on include, import, extends, block, autoescape,
// do and recursive loops.
Template parse_template(std::string_view source);

}  // namespace lema::jinja
