// Filters over sequences; see jinja_filters.cpp for the table. Where jinja2 returns a generator the
// result here is one too: true when tested, without length or index, gone when consumed.
#pragma once

#include "text/jinja_filters.h"

namespace lema::jinja::filters {

Obj attr(Interpreter& in, const Obj& x, const Args& args);
Obj batch(Interpreter& in, const Obj& x, const Args& args);
Obj dictsort(Interpreter& in, const Obj& x, const Args& args);
Obj first(Interpreter& in, const Obj& x, const Args& args);
Obj groupby(Interpreter& in, const Obj& x, const Args& args);
Obj items(Interpreter& in, const Obj& x, const Args& args);
Obj join(Interpreter& in, const Obj& x, const Args& args);
Obj last(Interpreter& in, const Obj& x, const Args& args);
Obj list(Interpreter& in, const Obj& x, const Args& args);
Obj map(Interpreter& in, const Obj& x, const Args& args);
Obj max(Interpreter& in, const Obj& x, const Args& args);
Obj min(Interpreter& in, const Obj& x, const Args& args);
Obj reject(Interpreter& in, const Obj& x, const Args& args);
Obj rejectattr(Interpreter& in, const Obj& x, const Args& args);
Obj reverse(Interpreter& in, const Obj& x, const Args& args);
Obj select(Interpreter& in, const Obj& x, const Args& args);
Obj selectattr(Interpreter& in, const Obj& x, const Args& args);
Obj slice(Interpreter& in, const Obj& x, const Args& args);
Obj sort(Interpreter& in, const Obj& x, const Args& args);
Obj sum(Interpreter& in, const Obj& x, const Args& args);
Obj unique(Interpreter& in, const Obj& x, const Args& args);

}  // namespace lema::jinja::filters
