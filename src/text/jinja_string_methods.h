// The methods of strings by name: what jinja_methods.cpp calls for a string.
#pragma once

#include <string_view>

#include "text/jinja_ops.h"

namespace lema::jinja {

using StringMethod = Obj (*)(Runtime& rt, const Obj& self, const Args& args);

// nullptr when strings have no such method.
StringMethod find_string_method(std::string_view name);

}  // namespace lema::jinja
