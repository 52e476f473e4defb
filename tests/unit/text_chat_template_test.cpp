// The chat template engine by itself: white-space control, scopes, spans, limits and attacks. That
// its results are jinja2's is the business of tests/parity/chat_template_test.py. Cases that need
// the machine's full speed, which sanitizers take away, are tagged [clock].
#include <chrono>
#include <ctime>
#include <string>
#include <thread>
#include <vector>

#include "core/error.h"
#include "support/catch.h"
#include "support/peak_memory.h"
#include "text/chat_template.h"

using namespace lema;

namespace {

Value message(const char* role, Value content) {
  return Value::Object{{"role", role}, {"content", std::move(content)}};
}

Value context() {
  return Value::Object{
      {"messages", Value::Array{message("user", "Hi"), message("assistant", "Hello")}},
      {"tools", nullptr},
      {"add_generation_prompt", true},
      {"bos_token", "<s>"}};
}

std::string render(const std::string& source) { return ChatTemplate(source).render(context()); }

// The message of the BadInput that parsing or rendering must throw.
std::string refusal(const std::string& source) {
  try {
    render(source);
  } catch (const Error& e) {
    CHECK(e.code() == ErrorCode::BadInput);
    return e.what();
  }
  return "no error";
}

bool begins(const std::string& text, const std::string& prefix) { return text.starts_with(prefix); }
bool holds(const std::string& text, const std::string& part) {
  return text.find(part) != text.npos;
}

std::string repeated(const std::string& text, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += text;
  return out;
}

}  // namespace

TEST_CASE("a ChatML template renders messages") {
  const std::string source =
      "{% for m in messages %}{{ '<|' + m.role + '|>' + m['content'] }}\n{% endfor %}"
      "{% if add_generation_prompt %}<|assistant|>{% endif %}";
  CHECK(render(source) == "<|user|>Hi\n<|assistant|>Hello\n<|assistant|>");
}

TEST_CASE("white space: trim_blocks, lstrip_blocks and the signs") {
  CHECK(render("a\n  {% if true %}\n b\n  {% endif %}\nc\n") == "a\n b\nc");
  CHECK(render("a {%- if true -%} b {%- endif %} c") == "ab c");
  CHECK(render(" {%+ if true %} b{% endif +%}\nc") == "  b\nc");
  CHECK(render("x\n {# note #}\ny {{- 1 -}} \n z") == "x\ny1z");
  CHECK(render("{% raw %}{{ x }}{% endraw %}") == "{{ x }}");
}

TEST_CASE("none, undefined and false differ") {
  CHECK(
      render("{{ tools is none }}{{ tools is defined }}{{ nope is defined }}{{ nope is none }}") ==
      "TrueTrueFalseFalse");
  CHECK(render("[{{ nope }}][{{ tools }}][{{ 'x' if false }}]") == "[][None][]");
  CHECK(render("{{ tools | default('d') }}{{ nope | default('d') }}{{ tools.x is defined }}") ==
        "NonedFalse");
  CHECK(refusal("{{ nope.x }}") == "chat template: line 1: 'nope' is undefined");
}

TEST_CASE("strings count in code points") {
  CHECK(render("{{ 'héé' | length }}{{ 'hé日'[::-1] }}{{ 'hé日'[1:] }}{{ 'hé日'[-1] }}") ==
        "3日éhé日日");
  CHECK(render("{{ 'straße ΑΣ'.upper() }}|{{ 'ΑΣ'.lower() }}|{{ '\\u3000x\\u00a0'.strip() }}|") ==
        "STRASSE ΑΣ|ας|x|");
}

TEST_CASE("values print as Python prints them") {
  CHECK(render("{{ [1, 1.0, 1e16, none, true, \"it's\", ('a',)] }}") ==
        "[1, 1.0, 1e+16, None, True, \"it's\", ('a',)]");
  CHECK(render("{{ {'a': '<é>\\n', 'b': [1.5, none]} | tojson }}") ==
        "{\"a\": \"<é>\\n\", \"b\": [1.5, null]}");
  CHECK(render("{{ {'a': [1]} | tojson(indent=1) }}") == "{\n \"a\": [\n  1\n ]\n}");
}

TEST_CASE("set in a loop stays in the loop, a namespace does not") {
  CHECK(render("{% set x = 1 %}{% for m in messages %}{% set x = 2 %}{% endfor %}{{ x }}") == "1");
  CHECK(render("{% set n = namespace(x=1) %}{% for m in messages %}{% set n.x = n.x + 1 %}{% "
               "endfor %}{{ n.x }}") == "3");
}

TEST_CASE("a loop's condition sees what the body changed") {
  CHECK(render("{% set n = namespace(stop=false) %}{% for i in range(9) if not n.stop %}{{ i }}"
               "{% if i == 2 %}{% set n.stop = true %}{% endif %}{% endfor %}") == "012");
}

TEST_CASE("macros take defaults, keywords and a caller") {
  CHECK(render("{% macro f(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }}{{ f(1, b=2) }}") ==
        "1112");
  CHECK(
      render(
          "{% macro f() %}<{{ caller(3) }}>{% endmacro %}{% call(x) f() %}{{ x }}{% endcall %}") ==
      "<3>");
}

TEST_CASE("strftime_now formats the local time") {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  CHECK(render("{{ strftime_now('%Y') }}") == std::to_string(local.tm_year + 1900));
}

TEST_CASE("generation blocks report their bytes") {
  const ChatTemplate t(
      "{% for m in messages %}é{% if m.role == 'assistant' %}{% generation %}{{ m.content }}!"
      "{% endgeneration %}{% endif %}{% endfor %}.");
  const ChatTemplate::Rendered r = t.render_spans(context());
  CHECK(r.text == "ééHello!.");
  REQUIRE(r.generated.size() == 1);
  CHECK(r.text.substr(size_t(r.generated[0].first),
                      size_t(r.generated[0].second - r.generated[0].first)) == "Hello!");
  CHECK(r.has_generation_blocks);
  CHECK_FALSE(ChatTemplate("x").render_spans(context()).has_generation_blocks);
  const ChatTemplate hidden("{% set x %}{% generation %}a{% endgeneration %}{% endset %}{{ x }}");
  CHECK(hidden.render(context()) == "a");
  CHECK_THROWS_AS(hidden.render_spans(context()), Error);
}

TEST_CASE("errors name the line") {
  CHECK(refusal("a\n{{ raise_exception('bad role ' + messages[0].role) }}") ==
        "chat template: line 2: bad role user");
  CHECK(begins(refusal("\n\n{% if %}"), "chat template: line 3: "));
  CHECK(begins(refusal("{% set x =\n 1 / 0 %}"), "chat template: line 2: division by zero"));
  CHECK(begins(refusal("{% for x in y %}\nz"),
               "chat template: line 2: found the end of the template"));
  CHECK(begins(refusal("{{ 'a' + 1 }}"),
               "chat template: line 1: '+' not supported between str and int"));
  CHECK(begins(refusal("{{ 'a' | nope }}"), "chat template: line 1: there is no filter 'nope'"));
  CHECK(begins(refusal("\xff"), "chat template: line 1: not valid UTF-8"));
  for (const char* tag :
       {"include 'x'", "import 'x' as y", "extends 'x'", "from 'x' import y", "block b", "do x"})
    CHECK(holds(refusal("{% " + std::string(tag) + " %}"), "is not supported"));
}

TEST_CASE("attributes beyond the data are refused or undefined") {
  for (const char* attack :
       {"{{ ''.__class__.__mro__ }}", "{{ ().__class__.__bases__[0] }}", "{{ messages.append(1) }}",
        "{{ messages[0].pop('role') }}", "{{ messages[0].update({}) }}",
        "{{ range.__globals__['x'] }}", "{{ cycler.__init__.__globals__.os }}",
        "{{ self._TemplateReference__context }}", "{{ config.items() }}",
        "{{ lipsum.__globals__ }}", "{{ ('' | attr('__class__')).x }}",
        "{{ '{0.__class__}'.format('') }}", "{% set n = namespace() %}{% set n.__class__ = 1 %}",
        "{{ namespace(__x=1) }}", "{% set ns = {} %}{% set ns.a = 1 %}",
        "{{ ['__class__', 'x'] | map('attr') | list }}",
        "{{ messages | map(attribute='__class__.x') | list }}"})
    CHECK(begins(refusal(attack), "chat template: line 1: "));
  CHECK(
      render(
          "{{ ''.__class__ }}{{ messages.__len__ is defined }}{{ messages[0].pop is defined }}") ==
      "FalseFalse");
}

TEST_CASE("work, memory and depth are limited", "[clock]") {
  const std::string loop = "{% for a in range(99999) %}";
  const std::string many = loop + loop + "{{ a }}{% endfor %}{% endfor %}";
  CHECK(holds(refusal(many), "evaluations"));
  CHECK(holds(refusal("{{ range(100001) | length }}"), "range of more than 100000"));
  CHECK(holds(refusal("{{ range(0, 9223372036854775807, 1) }}"), "range of more than"));
  CHECK(holds(refusal("{{ 'a' * 999999999 }}"), "a repeat of more than"));
  CHECK(holds(refusal("{{ [0] * 99999999999 }}"), "a repeat of more than"));
  CHECK(holds(refusal("{{ 'a'.center(999999999999) }}"), "a string of more than"));
  CHECK(holds(refusal("{{ '%999999999d' % 1 }}"), "a format width above"));
  CHECK(holds(refusal("{{ ('a' * 60000000) | replace('a', 'bbbb') }}"), "a string of more than"));
  CHECK(holds(refusal("{% set n = namespace(x='aaaaaaaaaaaaaaaa') %}" + loop +
                      "{% set n.x = n.x + n.x %}{% endfor %}"),
              "a string of more than"));
  CHECK(holds(refusal(loop + "{{ 'a' * 60000 }}{% endfor %}"), "bytes"));
  CHECK(holds(refusal("{% set n = namespace(x=[0]) %}" + loop +
                      "{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}"),
              "nested deeper"));
  CHECK(holds(refusal("{% set n = namespace(x=[0]) %}{% for i in range(60) %}{% set n.x = [n.x, "
                      "n.x] %}{% endfor %}"
                      "{{ n.x | tojson }}"),
              "more than"));
  CHECK(holds(
      refusal(
          "{% set n = namespace(x=[0], y=[0]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}"
          "{% set n.y = [n.y, n.y] %}{% endfor %}{{ n.x == n.y }}"),
      "evaluations"));
  CHECK(holds(refusal("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}"),
              "macros nested deeper than 64"));
  CHECK(holds(refusal("{{ 9223372036854775807 + 1 }}"), "beyond 64 bits"));
  CHECK(holds(refusal("{{ 2 ** 99999999 }}"), "beyond 64 bits"));
  CHECK(render("{{ 'b' * 3 }}{{ range(100000) | length }}") == "bbb100000");
}

TEST_CASE("searching text takes linear time", "[clock]") {
  const auto start = std::chrono::steady_clock::now();
  CHECK(
      render(
          "{% set s = 'a' * 1000000 %}{{ (s ~ 'b') in (s ~ s ~ 'c') }}{{ (s ~ s).rfind('b' ~ s) }}"
          "{{ (s ~ s).count(s ~ 'b') }}{{ ('b' * 1000000).strip(s ~ 'c') | length }}"
          "{{ (s ~ s).rsplit('b' ~ s) | length }}") == "False-1010000001");
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(4));
  CHECK(render("{{ 'a,b,,c'.rsplit(',') }}{{ ',a,'.rsplit(',', 1) }}{{ 'aaa'.rsplit('aa') }}{{ "
               "''.rfind('') }}") == "['a', 'b', '', 'c'][',a', '']['a', '']0");
}

TEST_CASE("a loop object that outlives its loop keeps what it has seen") {
  CHECK(
      render("{% set ns = namespace() %}{% for a in [1] %}{% for b in [1, 2, 3] if nope or true %}"
             "{% set ns.l = loop %}{% break %}{% endfor %}{% endfor %}"
             "{{ ns.l.length }}{{ ns.l.last }}{{ ns.l.index }}") == "1True1");
}

TEST_CASE("hashing is limited in depth and work") {
  const auto tuple = [](const char* body, int count) {
    return "{% set ns = namespace(t=()) %}{% for i in range(" + std::to_string(count) +
           ") %}{% set ns.t = " + body + " %}{% endfor %}{{ ns.t in {} }}";
  };
  CHECK(holds(refusal(tuple("(ns.t,)", 1000)), "nested deeper than 200"));
  CHECK(holds(refusal(tuple("(ns.t, ns.t)", 24)), "evaluations"));
  CHECK(render(tuple("(ns.t,)", 100)) == "False");
}

TEST_CASE("join stops at the output's limit") {
  const PeakMemory memory;
  CHECK(holds(refusal("{% set s = 'x' * 60000000 %}{{ ([nope] * 30) | join(s) | length }}"),
              "a string of more than"));
  CHECK(memory.growth() < int64_t{1} << 30);
}

TEST_CASE("filters that apply filters are limited in depth and memory") {
  const auto nested = [](int depth, int filters) {
    return "{% set ns = namespace(t=[1]) %}{% for i in range(" + std::to_string(depth) +
           ") %}{% set ns.t = [ns.t] %}{% endfor %}{{ ns.t | map(*(['map'] * " +
           std::to_string(filters) + ")) | list | length }}";
  };
  CHECK(holds(refusal(nested(2500, 2400)), "evaluation nested deeper than 2000"));
  CHECK(holds(refusal(nested(1900, 19000)), "values take more than"));
  CHECK(render("{{ [[[1, -2]]] | map('map', 'map', 'abs') | map('map', 'list') | map('list') "
               "| list }}") == "[[[1, 2]]]");
}

TEST_CASE("numbers at the ends of 64 bits") {
  const std::string low = "(0 - 9223372036854775807 - 1)", high = "9223372036854775807";
  CHECK(render("{{ " + low + " % 3 }}|{{ " + low + " % -1 }}|{{ " + low + " // 3 }}|{{ -7 % 3 }}|" +
               "{{ 7 % -3 }}") == "1|0|-3074457345618258603|2|-2");
  CHECK(render("{{ 'x' | truncate(" + high + ", leeway=" + high + ") }}") == "x");
  CHECK(holds(refusal("{{ 'x' | truncate(" + low + ") }}"), "less than its end mark"));
  CHECK(render("{{ 'x'.ljust(" + low + ") }}") == "x");
  CHECK(holds(refusal("{{ range(0, " + high + ", 4611686018427387904) }}"), "beyond 64 bits"));
  CHECK(render("{{ range(3) }}{{ range(4, 2) }}") == "range(0, 3)range(0, 0)");
}

TEST_CASE("the source's size and nesting are limited") {
  std::string keywords;
  for (int i = 0; i <= 1000; ++i) keywords += "k" + std::to_string(i) + "=1,";
  CHECK(holds(refusal("{{ dict(" + keywords + ") }}"), "more than 1000 keyword arguments"));

  CHECK(holds(refusal(std::string((size_t{1} << 20) + 1, 'a')), "at most 1048576"));
  CHECK(holds(refusal("{{ " + repeated("(", 200) + "1" + repeated(")", 200) + " }}"),
              "nested deeper than 128"));
  CHECK(holds(refusal("{{ " + repeated("not ", 200) + "1 }}"), "nested deeper than 128"));
  CHECK(holds(refusal("{{ " + repeated("-", 200) + "1 }}"), "nested deeper than 128"));
  CHECK(holds(refusal("{{ x" + repeated(".y", 200) + " }}"), "nested deeper than 128"));
  CHECK(holds(refusal("{{ 1" + repeated(" | abs", 200) + " }}"), "nested deeper than 128"));
  CHECK(holds(refusal(repeated("{% if 1 %}", 200) + repeated("{% endif %}", 200)),
              "nested deeper than 128"));
  CHECK(holds(refusal("{{ 1" + repeated(" if 1 else 1", 200) + " }}"), "nested deeper than 128"));
  // A long chain of one operator is not nested.
  CHECK(render("{{ 0" + repeated(" + 1", 20000) + " }}") == "20000");
  CHECK(render("{{ ''" + repeated(" ~ 1", 3) + " }}") == "111");
}

TEST_CASE("the deepest allowed nesting fits the stack") {
  const std::string nest = repeated("(", 40) + "f(n - 1)" + repeated(" | string)", 40);
  const std::string source =
      "{% macro f(n) %}{% if n > 0 %}{{ " + nest + " }}{% endif %}{% endmacro %}{{ f(60) }}";
  CHECK(holds(refusal(source), "nested deeper than 2000"));
}

TEST_CASE("one template renders from many threads") {
  const ChatTemplate t(
      "{% set n = namespace(x='') %}{% for m in messages %}{% set n.x = n.x ~ m.role %}{% endfor %}"
      "{{ n.x | upper }}");
  std::vector<std::string> out(4);
  std::vector<std::thread> threads;
  for (std::string& text : out)
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) text = t.render(context());
    });
  for (std::thread& thread : threads) thread.join();
  for (const std::string& text : out) CHECK(text == "USERASSISTANT");
}
