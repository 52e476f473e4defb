// Hostile chat templates: what does not parse, what reaches for more than the data, and what costs.
// Cases beyond those of tests/unit/text_chat_template_test.cpp.
#include "text/chat_template.h"

#include "formats/json.h"
#include "support/malformed.h"

using namespace lema;

namespace {

void render(const std::string& source) {
  static const Value context = parse_json(
      R"({"messages": [{"role": "user", "content": "hi"}], "add_generation_prompt": true})", "c");
  ChatTemplate(source).render(context);
}

constexpr std::string_view kPlace = "chat template: line ";

std::vector<Malformed> each(std::initializer_list<const char*> sources,
                            std::string_view part = "") {
  std::vector<Malformed> cases;
  for (const char* source : sources) cases.push_back({source, source, std::string(part)});
  return cases;
}

}  // namespace

TEST_CASE("templates that do not parse") {
  expect_refused(each({"{{",
                       "{{ }}",
                       "{{ 1",
                       "{{ 1 }",
                       "{%",
                       "{% %}",
                       "{% if %}",
                       "{% if 1 %}",
                       "{% endif %}",
                       "{% else %}",
                       "{% for %}",
                       "{% for a %}",
                       "{% for a in %}",
                       "{% for 1 in [1] %}{% endfor %}",
                       "{% for a in [1] %}",
                       "{% endfor %}",
                       "{% set %}",
                       "{% set a %}",
                       "{% set 1 = 2 %}",
                       "{% set a = %}",
                       "{% macro %}",
                       "{% macro f %}",
                       "{% macro f( %}",
                       "{% macro f(a=1, b) %}{% endmacro %}",
                       "{% macro f() %}",
                       "{% call %}",
                       "{% filter %}",
                       "{% filter nope %}{% endfilter %}",
                       "{% raw %}",
                       "{% generation %}",
                       "{% endgeneration %}",
                       "{% with %}",
                       "{% break %}",
                       "{% continue %}",
                       "{#",
                       "{{ 'a }}",
                       "{{ \"a }}",
                       "{{ (1 }}",
                       "{{ 1) }}",
                       "{{ [1 }}",
                       "{{ {1 }}",
                       "{{ {1: } }}",
                       "{{ a. }}",
                       "{{ a.1b }}",
                       "{{ a[ }}",
                       "{{ a[1:2:3:4] }}",
                       "{{ 1 + }}",
                       "{{ * 1 }}",
                       "{{ a | }}",
                       "{{ a is }}",
                       "{{ a is nope }}",
                       "{{ a if }}",
                       "{{ a b }}",
                       "{{ 1 2 }}",
                       "{{ 'a' = 'b' }}",
                       "{{ a ? b }}",
                       "{{ lambda: 1 }}",
                       "{{ a; b }}",
                       "{{ \\ }}",
                       "{{ 1__0 }}",
                       "{{ 99999999999999999999 }}",
                       "{% import 'os' as os %}",
                       "{% include '/etc/passwd' %}",
                       "{% extends 'a' %}",
                       "{% block a %}{% endblock %}",
                       "{% from 'a' import b %}",
                       "{% do 1 %}",
                       "{% autoescape true %}{% endautoescape %}",
                       "{% trans %}",
                       "{% debug %}",
                       "{% nope %}",
                       "\xff",
                       "{{ '\xc0\x80' }}"}),
                 kPlace, render);
}

TEST_CASE("templates that reach for more than the data, by the classes of recorded escapes") {
  expect_refused(
      // CVE-2024-34359, CVE-2026-5760, CVE-2019-8341: objects by way of attributes.
      each({"{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ [].__class__.__base__.x }}",
            "{{ {}.__class__.__bases__[0] }}", "{{ messages.__class__.__init__.__globals__ }}",
            "{{ range.__init__.__globals__ }}", "{{ cycler.__init__.__globals__.os.popen('id') }}",
            "{{ joiner.__init__.__globals__.x }}", "{{ namespace.__init__.__globals__.x }}",
            "{{ lipsum.__globals__['os'] }}", "{{ dict.__base__.__subclasses__() }}",
            "{{ self.__init__.__globals__.x }}", "{{ request.application.__globals__ }}",
            "{{ config.__class__.x }}", "{{ get_flashed_messages.__globals__ }}", "{{ url_for.x }}",
            "{{ raise_exception.__globals__.x }}", "{{ strftime_now.__globals__.x }}",
            // CVE-2024-56201, CVE-2024-56326, CVE-2025-27516: by way of format, attr and map.
            "{{ '{0.__class__.__mro__}'.format('') }}", "{{ '{x.__class__}'.format(x='') }}",
            "{{ '{0[__class__]}'.format('') }}", "{{ ('' | attr('nope')).x }}",
            "{{ ('' | attr('__class__')).x }}", "{{ ['x'] | map(attribute='__class__.y') | list }}",
            "{{ '{}'.format_map({}).x.y }}", "{% set f = '{0.__class__}'.format %}{{ f('') }}",
            "{{ (['{0.__class__}'] | map('format', '') | list)[0].x.y }}",
            // Mutation of what the caller owns.
            "{{ messages.append(1) }}", "{{ messages.clear() }}", "{{ messages.pop() }}",
            "{{ messages.extend([1]) }}", "{{ messages[0].update({'role': 'x'}) }}",
            "{{ messages[0].setdefault('a', 1) }}", "{{ messages[0].clear() }}",
            "{% set messages[0].role = 'x' %}", "{% set messages.x = 1 %}",
            // What is not there.
            "{{ open('/etc/passwd') }}", "{{ eval('1') }}", "{{ exec('1') }}", "{{ print(1) }}",
            "{{ nope() }}", "{{ messages[0].nope() }}", "{{ messages.nope.nope }}",
            "{{ none.x.y }}", "{{ 'a' | system }}", "{{ raise_exception('stop') }}"}),
      kPlace, render);
}

TEST_CASE("arithmetic that has no answer") {
  // minja#92, llama.cpp#19085: a division by zero ended the process.
  expect_refused(each({"{{ 1 / 0 }}",
                       "{{ 1 // 0 }}",
                       "{{ 1 % 0 }}",
                       "{{ 1.0 / 0 }}",
                       "{{ 0 ** -1 }}",
                       "{{ 9223372036854775807 + 1 }}",
                       "{{ -9223372036854775807 - 2 }}",
                       "{{ 9223372036854775807 * 2 }}",
                       "{{ 2 ** 63 }}",
                       "{{ (0 - 9223372036854775807 - 1) // -1 }}",
                       "{{ -(0 - 9223372036854775807 - 1) }}",
                       "{{ (0 - 9223372036854775807 - 1) | abs }}",
                       "{{ 1e308 * 10 | int }}{{ (1e308 * 10) | int }}",
                       "{{ 'a' - 1 }}",
                       "{{ [] + 1 }}",
                       "{{ {} * 2 }}",
                       "{{ none + none }}",
                       "{{ 'a' < 1 }}",
                       "{{ [1] < ['a'] }}",
                       "{{ [3, 'a'] | sort }}",
                       "{{ [1, none] | max }}",
                       "{{ 'abc'['x'].y }}",
                       "{{ range(1, 2, 0) }}",
                       "{{ 'abc'[::0] }}",
                       "{{ '%d' % 'a' }}",
                       "{{ '%s' % () }}",
                       "{{ '%q' % 1 }}",
                       "{{ 'a' * 'b' }}",
                       "{{ [1] | join(1) | nope }}",
                       "{{ 'a' | int(base=99) | nope }}",
                       "{{ messages | groupby }}",
                       "{{ [1, 2] | slice(0) | list }}"}),
                 kPlace, render);
}

TEST_CASE("macros that call themselves") {
  expect_refused(
      {
          {"macros without end", "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
           "macros nested deeper than 64"},
      },
      kPlace, render);
}

TEST_CASE("templates that are made to cost", "[clock]") {
  const std::string loop = "{% for a in range(99999) %}", end = "{% endfor %}";
  const std::vector<Malformed> cases = {
      {"two loops", loop + loop + end + end, "evaluations"},
      {"a loop of strings", loop + "{{ 'a' * 100000 }}" + end, "bytes"},
      {"a string that doubles",
       "{% set n = namespace(x='aaaaaaaa') %}" + loop + "{% set n.x = n.x ~ n.x %}" + end,
       "a string of more than"},
      {"a list that doubles",
       "{% set n = namespace(x=[0, 1]) %}" + loop + "{% set n.x = n.x + n.x %}" + end, "more than"},
      {"a list of itself",
       "{% set n = namespace(x=[]) %}" + loop + "{% set n.x = [n.x] %}" + end + "{{ n.x }}",
       "nested deeper"},
      {"a repeat", "{{ 'a' * 9223372036854775807 }}", "a repeat of more than"},
      {"a repeat of a list", "{{ [1] * 9223372036854775807 }}", "a repeat of more than"},
      {"a range", "{{ range(9223372036854775807) | list }}", "range of more than"},
      {"ranges in a range", "{{ range(99999) | map('string') | map('center', 99999) | list }}",
       "more than"},
      {"a width", "{{ 'a' | center(9223372036854775807) }}", "a string of more than"},
      {"a format width", "{{ '%2147483648d' % 1 }}", "a format width above"},
      {"a precision", "{{ '%.2147483648f' % 1 }}", "above"},
      {"an indent", "{{ ('a\n' * 10000) | indent(100000) }}", "a string of more than"},
      {"a replacement", "{{ ('a' * 100000) | replace('a', 'b' * 100000) }}",
       "a string of more than"},
      {"a replacement of nothing", "{{ ('a' * 100000) | replace('', 'b' * 100000) }}",
       "a string of more than"},
      {"a join", "{{ range(99999) | join('a' * 99999) }}", "a string of more than"},
      {"JSON with an indent", "{{ [[[[1] * 1000] * 100] * 100] | tojson(indent=1000) }}",
       "more than"},
      {"two macros without end",
       "{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}", ""},
      {"macros that double",
       "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
       "evaluations"},
      {"a recursive loop",
       "{% set n = namespace(x=[]) %}{% for i in range(99) %}{% set n.x = [n.x] %}{% endfor %}"
       "{% for a in [n.x, n.x] recursive %}{{ loop(a + a) }}{% endfor %}",
       ""},
      {"brackets", "{{ " + repeat("[", 1000) + repeat("]", 1000) + " }}", "nested deeper than 128"},
      {"parentheses", "{{ " + repeat("(", 1000) + "1" + repeat(")", 1000) + " }}",
       "nested deeper than 128"},
      {"dictionaries", "{{ " + repeat("{1:", 1000) + "1" + repeat("}", 1000) + " }}",
       "nested deeper than 128"},
      {"signs", "{{ " + repeat("-", 100'000) + "1 }}", "nested deeper than 128"},
      {"nots", "{{ " + repeat("not ", 100'000) + "1 }}", "nested deeper than 128"},
      {"ifs", repeat("{% if 1 %}", 100'000), "nested deeper than 128"},
      {"fors", repeat("{% for a in [1] %}", 50'000), "nested deeper than 128"},
      {"filters", "{{ 1" + repeat("|abs", 100'000) + " }}", "nested deeper than 128"},
      {"attributes", "{{ a" + repeat(".a", 100'000) + " }}", "nested deeper than 128"},
      {"calls", "{{ a" + repeat("()", 100'000) + " }}", "nested deeper than 128"},
      {"subscripts", "{{ a" + repeat("[0]", 100'000) + " }}", "nested deeper than 128"},
      {"conditions", "{{ 1" + repeat(" if 1 else 1", 50'000) + " }}", "nested deeper than 128"},
      {"a source of 1 MiB and a byte", std::string((1 << 20) + 1, 'a'), "at most 1048576"},
      {"an error of 1 MB", "{{ raise_exception('" + repeat("x", 1'000'000) + "') }}", ""},
      {"an error of terminal escapes", "{{ raise_exception('\\x1b[2J\n\r') }}", "\\x1b[2J\\x0a"},
      {"an unknown filter of 1 MB", "{{ 1 | " + repeat("x", 1'000'000) + " }}", ""},
      {"a name of terminal escapes", "{{ messages['\x1b[2J'].x.y }}", ""},
  };
  // A template may fill its own heap (text/jinja_value.h), whatever its size.
  expect_refused(cases, kPlace, render, int64_t{512} << 20);
}
