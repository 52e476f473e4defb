// The filters and tests of jinja2 that chat templates can use, by name. Called by the evaluator;
// the parser asks which names exist. Not here: filters for web pages (urlize, xmlattr, striptags,
// ...), pprint and random.
#pragma once

#include <string_view>

#include "text/jinja_ops.h"

namespace lema::jinja {

class Interpreter;

using Filter = Obj (*)(Interpreter& in, const Obj& value, const Args& args);
using Test = bool (*)(Interpreter& in, const Obj& value, const Args& args);

// nullptr when there is none of that name.
Filter find_filter(std::string_view name);
Test find_test(std::string_view name);
inline bool is_filter(std::string_view name) { return find_filter(name) != nullptr; }
inline bool is_test(std::string_view name) { return find_test(name) != nullptr; }

}  // namespace lema::jinja
