#!/usr/bin/env python3
"""Chat templates against jinja2, live: `lema tokenize --chat --render` must print what transformers'
apply_chat_template renders, and fail where it fails. Templates: small ones written here in the style of each known family,
one per language feature, and the published ones of an installed `trl`, which are read and never copied.

Environment: LEMA (binary), LEMA_SOURCE (checkout). Needs jinja2 and transformers; exits 77 (skipped) without them.
"""
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile

try:
    import jinja2
    from transformers import PreTrainedTokenizerFast
    from transformers.utils.chat_template_utils import render_jinja_template
except ImportError as e:
    print("skipped:", e)
    sys.exit(77)
if not importlib.util.find_spec("trl"):
    print("skipped: trl is not installed")
    sys.exit(77)

CHATML = """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>'
 + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

LLAMA = """{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not date_string is defined %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{#- the system message, if there is one #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = (messages[0]['content'] or '')|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|header|>system<|/header|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: tools\\n" }}{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|header|>' + message['role'] + '<|/header|>\\n\\n' + message['content'] | trim + '<|eot|>' }}
    {%- elif 'tool_calls' in message and message.tool_calls %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("only single tool-calls at once") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '{"name": "' + tool_call.name + '", "parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}<|eot|>" }}
    {%- elif message.role == "tool" %}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|header|>assistant<|/header|>\\n\\n' }}
{%- endif %}
"""

QWEN = """{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string
        and not(message.content.startswith('<r>') and message.content.endswith('</r>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{%- set content = message.content %}
    {%- else %}{%- set content = '' %}{%- endif %}
    {%- if message.role == "assistant" %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or (not loop.last and reasoning)) %}
            {{- '<|' + message.role + '|><think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|' + message.role + '|>' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}{{- '\\n' }}{%- endif %}
                {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
                {{- '{"name": "' ~ tool_call.name ~ '", "arguments": ' }}
                {%- if tool_call.arguments is string %}{{- tool_call.arguments }}
                {%- else %}{{- tool_call.arguments | tojson }}{%- endif %}
                {{- '}' }}
            {%- endfor %}
        {%- endif %}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|user|>' }}{%- endif %}
        {{- '\\n<r>\\n' + content + '\\n</r>' }}
    {%- else %}
        {{- '<|' + message.role + '|>' + content }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think></think>' }}{%- endif %}
{%- endif %}
"""

MISTRAL = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}
{% set system = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% endif %}
{% for message in loop_messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('roles must alternate user/assistant/user/assistant/...') }}
{% endif %}
{% if message['role'] == 'user' %}
{% if loop.first and system is defined %}
{{ ' [INST] ' + system + '\\n\\n' + message['content'] + ' [/INST]' }}
{% else %}
{{ ' [INST] ' + message['content'] + ' [/INST]' }}
{% endif %}
{% elif message['role'] == 'assistant' %}
{{ ' ' + message['content'] + eos_token }}
{% else %}{{ raise_exception('unknown role ' ~ message['role']) }}{% endif %}
{% endfor %}"""

TRAINING = """{% for m in messages %}{{ m.role }}:
{% if m.role == 'assistant' %}{% generation %}
{% set shown = m.content or '' %}{{ shown }}<end>
{% endgeneration %}{% else %}{{ m.content }}{% endif %}
{{ shown is defined }}{% endfor %}"""

MACROS = """{%- macro field(name, value, sep=': ', last=false) -%}
{{ name }}{{ sep }}{{ value | default('?', true) }}{{ '' if last else ', ' }}
{%- endmacro -%}
{%- macro wrap(tag) %}<{{ tag }}>{{ caller() }}</{{ tag }}>{% endmacro -%}
{%- for m in messages if m.role != 'system' -%}
{{ field('n', loop.index) }}{{ field('role', m.role, sep='=') }}{{ field('len', m.content | string | length, last=true) }}
{% call wrap(m.role) %}{{ m.content }}{% endcall %}
{% else %}nobody{% endfor %}
{%- if tools %}{% for t in tools %}{% for k, v in t.function.parameters.properties | dictsort %}
{{ loop.index }}/{{ loop.length }} {{ k }}={{ v.type | upper }}{{ ';' if not loop.last }}
{% endfor %}{% endfor %}{% endif %}"""

FAMILIES = {"chatml": CHATML, "llama": LLAMA, "qwen": QWEN, "mistral": MISTRAL, "training": TRAINING, "macros": MACROS}

# One line for each feature; `messages` and the rest are there too. Where jinja2 fails, lema must.
FEATURES = r"""
{{ 1 }} {{ 1.0 }} {{ 1e20 }} {{ 1e-5 }} {{ 0.1 + 0.2 }} {{ 123456789012345678.0 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 10 }}
{{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 1_000 }} {{ 2 ** -1 }} {{ 10 - 2 - 3 }} {{ 2 * 3 + 4 * 5 }} {{ -2 ** 2 }} {{ +3 }} {{ - 3 | abs }}
{{ true }} {{ none }} {{ True and False }} {{ None or 'x' }} {{ not 1 }} {{ 0 or '' or [] }} {{ 1 < 2 < 3 }} {{ 3 > 2 > 2 }} {{ 1 == 1.0 }} {{ true == 1 }}
{{ [1, 'a', none, true, 1.5, {'k': "it's"}] }} {{ (1,) }} {{ () }} {{ {} }} {{ {'a': 1, 2: 'b'} }} {{ 'a"b' | list }} {{ ["a'b", 'c"d\'e', 'n\n\t\\'] }}
{{ 'abc'[1] }}{{ 'abc'[-1] }}{{ 'abc'[1:] }}{{ 'abc'[::-1] }}{{ 'abcdef'[4:1:-2] }}{{ 'héllo'[1] }}{{ 'héllo'[:2] }}{{ [1,2,3][-2:] }}{{ (1,2,3)[::2] }}{{ 'abc'[9] }}
{{ 'a,b,,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a,b,c'.split(',', 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ ' a b  c '.split(none, 1) }} {{ ' a b  c '.rsplit(none, 1) }}
{{ '  x '.strip() }}|{{ 'xxayxx'.strip('x') }}|{{ 'abcab'.lstrip('ab') }}|{{ 'abcab'.rstrip('ab') }}|{{ '\u3000é\u00a0'.strip() }}|{{ 'ééa'.strip('é') }}
{{ 'abc'.startswith('ab') }} {{ 'abc'.endswith(('x', 'c')) }} {{ 'abc'.startswith('b', 1) }} {{ 'abc'.find('c') }} {{ 'éabc'.find('c') }} {{ 'abc'.find('z') }} {{ 'aXbX'.count('X') }} {{ 'abab'.rfind('b') }}
{{ 'ß ŉ ﬁ ΑΣ ΣΑΣ. İ ǆ'.upper() }} {{ 'ß ŉ ﬁ ΑΣ ΣΑΣ. İ ǆ'.lower() }} {{ 'ß hELLO wORLD ﬁx ǆ it\'s'.title() }} {{ 'ßA éB ǆ'.capitalize() }} {{ 'aBß'.swapcase() }}
{{ 'hello world-foo (bar) [x] {y}' | title }} {{ 'ÉCOLE' | lower }} {{ 'école' | upper }} {{ 'hELLO' | capitalize }} {{ none | upper }} {{ 12 | title }}
{{ 'a-b-a'.replace('a', 'x') }} {{ 'aaa'.replace('a', 'b', 2) }} {{ 'abc'.replace('', '-') }} {{ 'aaa' | replace('a', 'b', 1) }} {{ 'é'.replace('', '.') }}
{{ 'a,b,,c'.rsplit(',') }} {{ ',a,'.rsplit(',', 1) }} {{ 'aaa'.rsplit('aa') }} {{ ''.rfind('') }} {{ 'abab'.rfind('') }} {{ 'aéaé'.rfind('é') }} {{ 'abc'.find('') }} {{ 'abc'.find('', 3) }} {{ 'abc'.find('', 4) }} {{ ''.count('') }}
{{ ', '.join(['a', 'b']) }} {{ [1, none, 'x'] | join('-') }} {{ messages | map(attribute='role') | join(',') }} {{ 'abc' | join('.') }} {{ {'a': 1} | join }}
{{ 'a{}b{}'.format(1, 'x') }} {{ '{0}{1}{0} {n} {{}}'.format('a', 2, n=none) }} {{ '%s=%d %.2f %5s|%-5s|%05d %x %%' % ('a', 3, 1.239, 'é', 'b', -42, 255) }} {{ '%s' % 'one' }} {{ '%(a)s' % {'a': [1]} }} {{ '%s-%s' | format('x', 1) }}
{{ 'abc'.isdigit() }} {{ '12'.isdigit() }} {{ 'é'.isalpha() }} {{ 'a1'.isalnum() }} {{ ' '.isspace() }} {{ 'Ab'.isupper() }} {{ 'AB1'.isupper() }} {{ 'ab'.islower() }} {{ ''.isdigit() }}
{{ 'ab'.center(5, '*') }} {{ 'ab'.ljust(4) }}| {{ 'ab'.rjust(4, 'é') }} {{ '-5'.zfill(4) }} {{ 'abc' | center(6) }}| {{ 'prefix-x'.removeprefix('prefix-') }} {{ 'x.y.z'.partition('.') }} {{ 'x.y.z'.rpartition('.') }} {{ 'xyz'.partition('.') }}
{{ 'a\nb\r\nc\n'.splitlines() }} {{ 'a\nb'.splitlines(true) }} {{ 'a\n\nb' | indent }} {{ 'a\n\nb' | indent(2, true, true) }} {{ 'a\nb' | indent('> ') }} {{ '' | indent }}
{{ {'a': 1}.get('a') }} {{ {'a': 1}.get('b') }} {{ {'a': 1}.get('b', 2) }} {{ {'a': 1, 'b': 2}.items() }} {{ {'a': 1}.keys() }} {{ {'a': 1}.values() | list }} {{ {'items': 5}['items'] }} {{ {'a': 1}.items() | length }}
{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}{{ v }}{% endfor %} {% for k in {'a': 1, 'b': 2} %}{{ k }}{% endfor %} {% for c in 'aé' %}{{ c }}.{% endfor %} {% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% for x in [1,2,3,4] if x is even %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }} {% else %}none{% endfor %}
{% for x in [] %}{% else %}empty{% endfor %}{% for x in undefined_thing %}{% else %}undef{% endfor %} {% for x in [1,2,3] %}{{ loop.cycle('a', 'b') }}{{ loop.changed(x // 2) }}{% endfor %} {{ loop is defined }}
{% for x in range(10) %}{% if x == 2 %}{% continue %}{% endif %}{% if x > 4 %}{% break %}{% endif %}{{ x }}{% endfor %} {{ range(3) }} {{ range(1, 10, 3) | list }} {{ range(5, 0, -2) | list }} {{ range(3)[1] }} {{ range(0) | length }}
{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{{ x }}{% endfor %}{{ x }}{% if true %}{% set x = 3 %}{% endif %}{{ x }}{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set n = namespace(c=0) %}{% for i in range(3) %}{% set n.c = n.c + i %}{% endfor %}{{ n.c }}
{% set t %}a{{ 1 }}b{% endset %}{{ t }}{{ t | length }}{% set u | upper | trim %} x y {% endset %}{{ u }} {% filter upper %}abc{{ 1 }}{% endfilter %} {% with q = 1, r = 2 %}{{ q + r }}{% endwith %}{{ q is defined }}
{% macro m(a, b=2, c='x') %}[{{ a }}|{{ b }}|{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, c=3) }}{{ m(b=5) }}{{ m(1, 2, 3) }} {% macro v() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ v(1, 2, k=3) }}
{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }} {% macro o() %}{{ g }}{% endmacro %}{% set g = 5 %}{{ o() }} {% call(x) f2() %}{{ x }}{% endcall %}
{% macro w() %}<{{ caller(1, 2) }}>{% endmacro %}{% call(a, b) w() %}{{ a + b }}{% endcall %}{{ w is callable }}{{ 1 is callable }}
{{ 'x' if true }}{{ 'x' if false }}{{ 'a' if false else 'b' }}{{ ('x' if false) is defined }} {{ missing is defined }} {{ missing }} {{ missing | default('d') }} {{ '' | default('d') }} {{ '' | default('d', true) }} {{ none | default('d') }} {{ missing.x is defined }}
{{ missing.x is defined }}
{{ missing == other_missing }} {{ missing ~ 'a' }} {{ missing | length }} {{ missing | list }} {{ missing is none }} {{ none is none }} {{ [missing] | length }} {{ 'a' in missing }} {{ none.x is defined }} {{ none['x'] is defined }}
{{ 'b' in 'abc' }} {{ 1 in [1, 2] }} {{ 'k' in {'k': 1} }} {{ 4 not in (1, 2) }} {{ 1.0 in [1] }} {{ 'x' is in ['x'] }} {{ 'role' in messages[0] }}
{{ 1 is number }} {{ true is number }} {{ true is integer }} {{ 1.5 is float }} {{ 'a' is string }} {{ [] is sequence }} {{ {} is sequence }} {{ {} is mapping }} {{ {}.items() is sequence }} {{ 'a' is iterable }} {{ 1 is iterable }} {{ missing is iterable }} {{ missing is sequence }} {{ true is boolean }} {{ 1 is true }} {{ false is false }}
{{ 3 is odd }} {{ 4 is divisibleby 2 }} {{ 4 is divisibleby(3) }} {{ 3 is eq 3 }} {{ 3 is gt(2) }} {{ 3 is not lt 2 }} {{ 'a' is sameas 'a' }} {{ 'abc' is lower }} {{ 'tojson' is filter }} {{ 'even' is test }} {{ 1 is ne 1 }} {{ none is sameas none }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages | rejectattr('role', 'eq', 'user') | map(attribute='role') | list }} {{ [1, 0, '', 'a'] | select | list }} {{ [1, 2, 3] | select('odd') | list }} {{ [1, 2, 3] | reject('gt', 1) | list }} {{ messages | selectattr('missing') | list }}
{{ ['b', 'A', 'c'] | sort }} {{ ['b', 'A', 'c'] | sort(reverse=true) }} {{ ['b', 'A'] | sort(case_sensitive=true) }} {{ [{'a': 2}, {'a': 1}] | sort(attribute='a') }} {{ {'b': 1, 'A': 2} | dictsort }} {{ {'b': 1, 'a': 2} | dictsort(by='value') }} {{ ['a', 'A', 'b'] | unique | list }}
{{ [3, 1, 2] | min }} {{ ['b', 'A'] | max }} {{ [1, 2.5] | sum }} {{ [] | sum }} {{ [{'a': 1}, {'a': 2}] | sum(attribute='a') }} {{ [] | min is defined }} {{ [1, 2, 3] | first }} {{ [1, 2, 3] | last }} {{ [] | first is defined }} {{ 'abc' | first }} {{ 'abc' | reverse }} {{ [1, 2] | reverse | list }}
{{ [1, 2, 3, 4, 5] | batch(2) | list }} {{ [1, 2, 3] | batch(2, 0) | list }} {{ [1, 2, 3, 4] | slice(3) | list }} {{ [{'k': 'a', 'v': 1}, {'k': 'b', 'v': 2}, {'k': 'A', 'v': 3}] | groupby('k') }} {% for g, l in [{'k': 1}] | groupby('k') %}{{ g }}{{ l }}{% endfor %}
{{ '42' | int }} {{ '4.9' | int }} {{ 'x' | int }} {{ 'x' | int(7) }} {{ 'ff' | int(base=16) }} {{ ' 1_0 ' | int }} {{ 4.9 | int }} {{ none | int }} {{ '1.5' | float }} {{ 'x' | float }} {{ true | int }} {{ 3 | float }} {{ '1e3' | float }} {{ -3 | abs }}
{{ 2.5 | round }} {{ 3.5 | round }} {{ 2.675 | round(2) }} {{ 2.1 | round(0, 'ceil') }} {{ 2.19 | round(1, 'floor') }} {{ 5 | round }} {{ 1.0e16 }} {{ 1e15 }} {{ 0.0001 }} {{ 0.00001 }} {{ 1e22 }} {{ 1.5e300 * 1e10 }} {{ 100.0 }}
{{ {'b': [1, 2.0, none, true], 'a': {'é': '</script>&\u2028 "q" \\ \n\x01\x7f'}} | tojson }} {{ [] | tojson }} {{ {} | tojson }} {{ {'a': [], 'b': {}} | tojson(indent=2) }} {{ [1, [2]] | tojson(indent=1) }} {{ 'é😀' | tojson(ensure_ascii=true) }} {{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }} {{ {'a': 1} | tojson(separators=(',', ':')) }} {{ {1: 2, none: 3, true: 4} | tojson }} {{ (1, 2) | tojson }}
{{ '<a&b>' | e }} {{ '<a>' | safe }} {{ '<' ~ ('<a>' | safe) }} {{ '<' + ('<a>' | safe) }} {{ ('<a>' | safe) + '<' }} {{ ('<a>' | safe) is escaped }} {{ ('<a>' | e) + '"' }} {{ ('<a>' | safe).upper() + '<' }}
{{ 'a b c d e f g h' | truncate(9) }} {{ 'a b c d e f g h i j k' | truncate(9, true) }} {{ 'short' | truncate(9) }} {{ 'a b  c' | wordcount }} {{ {'a': 1} | items | list }} {{ missing | items | list }} {{ {'a': 1} | list }}
{{ dict(a=1, b=2) }} {{ dict({'x': 1}, y=2) }} {{ dict([('a', 1)]) }} {{ namespace(a=1).a }} {{ namespace({'a': 2}).a }} {{ dict(**{'z': 1}) }} {% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }} {% set j = joiner('|') %}{{ j() }}{{ j() }}
a {%- if true -%} b {%- endif %} c {{- 'd' -}} e {#- comment -#} f {% raw %}{{ x }}{% endraw %} g {%- raw -%} {% y %} {%- endraw -%} h
{%+ if true +%} x {%+ endif +%} y {{ '}}' }} {{ {'a': {'b': 1}} }} {# {{ #} {{ "{% x %}" }} {{ 'a' 'b' }} {{ '\x41\u00e9\101\q' }}
{{ [1] + [2] }} {{ (1,) + (2,) }} {{ 'a' * 3 }} {{ [0] * 2 }} {{ 2 * 'b' }} {{ 'a' ~ 1 ~ none ~ 1.5 ~ [] }} {{ [1, 2] == [1, 2] }} {{ [1, 2] < [1, 3] }} {{ 'a' < 'b' }} {{ {'a': 1} == {'a': 1.0} }} {{ (1, 2) == [1, 2] }}
{{ messages[0].content }}{{ messages[0]['content'] }}{{ messages.0.role }}{{ messages[-1].role }}{{ messages[99].role is defined }}
{{ messages[99] is defined }} {{ messages['x'] is defined }} {{ messages.x is defined }} {{ messages[0].nope is defined }} {{ 'abc'.nope is defined }} {{ 1 .nope is defined }} {{ messages[0].pop is defined }} {{ messages.append is defined }} {{ ''.__class__ is defined }} {{ ''.__class__ }} {{ messages[1.0] is defined }}
{{ ''.__class__.__mro__ }}
{{ messages.append(1) }}
{{ messages[0].update({}) }}
{{ messages[0].pop('role') }}
{{ ().__class__.__bases__[0].__subclasses__() }}
{{ self._TemplateReference__context.x }}
{{ cycler.__init__.__globals__ }}
{{ ('a' | attr('upper'))() }} {{ 'a' | attr('nope') is defined }}
{{ {'a': 1} | attr('a') is defined }}
{{ 1 / 0 }}
{{ 1 // 0 }}
{{ 1 % 0 }}
{{ 'a' + 1 }}
{{ none + 'a' }}
{{ missing + 'a' }}
{{ missing.a.b }}
{{ missing[0] }}
{{ missing() }}
{{ 1() }}
{{ 1 < 'a' }}
{{ none | length }}
{{ 1 | length }}
{{ [1, 2] | select('odd') | length }}
{{ [1] | map('upper') | first }} {{ ([1, 2] | map('string'))[0] is defined }} {{ 'yes' if [] | select else 'no' }}
{{ none | tojson }} {{ missing | tojson }}
{{ namespace(a=1) | tojson }}
{{ raise_exception('stop ' ~ 1) }}
{{ 'x' | nosuchfilter }}
{% if false %}{{ 'x' | nosuchfilter }}{% endif %}ok
{% if false %}{{ 'x' is nosuchtest }}{% endif %}ok
{{ 'x' is nosuchtest }}
{% for a, b in [(1, 2, 3)] %}{% endfor %}
{% set messages[0] = 1 %}
{% set x.y = 1 %}
{% set ns = namespace() %}{% set ns.__class__ = 1 %}
{% set ns = namespace(_a=1) %}
{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{% endmacro %}{{ m(b=2) }}
{% macro m(a) %}{{ a is defined }}{{ a }}{% endmacro %}{{ m() }}
{% macro m() %}{% endmacro %}{% call m() %}{% endcall %}
{% break %}
{% for x in [1] %}
{% endfor %}{% endif %}
{% if true %}
{{ 1 +
{{ (1, 2 }}
{{ 'abc }}
{# never closed
{% raw %} never closed
{{ }}
{{ 1 2 }}
{{ x is defined is none }}
{% unknown_tag %}
{{ range(1, 2, 0) }}
{{ {[]: 1} }}
{{ {'a': 1}[[]] is defined }}
{{ {'a': 1}.get([]) }}
{{ ', '.join([1]) }}
{{ 'a'.split('') }}
{{ 'abc'.index('z') }}
{{ '%d' % 'x' }}
{{ '%s %s' % 'x' }}
{{ '%s' % (1, 2) }}
{{ 5 in 5 }}
{{ 1 in 'abc' }}
{{ [1, 'a'] | sort }}
{{ 'a' * 'b' }}
{{ -'a' }}
{{ {} < {} }}
{{ messages | first | tojson }}
{{ [[1, 2], [3]] | map('length') | list }} {{ ['a', 'b'] | map('upper') | join }} {{ [{'a': {'b': 1}}, {}] | map(attribute='a.b', default='?') | list }} {{ [' a '] | map('trim') | list }} {{ [1, 2] | map('string') | map('replace', '1', 'x') | list }}
{{ not missing and missing is not defined or false }} {{ 1 if missing is defined and missing else 2 }} {{ (messages | last).role }} {{ 'a' if 1 else 'b' if 1 else 'c' }} {{ not 'a' in 'abc' }} {{ 1 + 1 ~ 2 * 3 }} {{ 'a' ~ 'b' | upper }} {{ ('a' ~ 'b') | upper }} {{ 1 == 1 and 2 in [2] }}
{%- set x = namespace(list=[]) -%}{%- for m in messages -%}{%- set x.list = x.list + [m.role] -%}{%- endfor -%}{{ x.list }}{{ x.nope is defined }}{{ x['list'] is defined }}
{% if messages[0].role == 'system' %}sys{% elif messages[0].role == 'user' %}user{% else %}other{% endif %} {% if not tools %}no{% endif %} {% if tools is defined and tools is not none %}{{ tools[0].function.name }}{% endif %}
{% set content = 'outer' %}{% for m in messages %}{{ content }}{% set content = m.role %}{{ content }}{% endfor %}{{ content }} {% for x in [1, 2] %}{% for y in [1, 2] %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}
{% set ns = namespace(found=false) %}{% for m in [1, 2, 3] if not ns.found %}{{ m }}{% if m == 2 %}{% set ns.found = true %}{% endif %}{% endfor %} {% for m in [1, 2, 3] if not ns.found %}{{ loop.last }}{% else %}none{% endfor %}
""".strip("\n").split("\n")
FEATURES += ["a\n  {% if true %}\n b\n  {% endif %}\nc\n", "a\r\n{% if true %}\r\nb{% endif %}\r\n\r\n", "\n\n {# c #} \n x {# c #}\n y\n",
             "  {%- if true %}\n   x\n  {%+ if true %}\n y{% endif %}\n {% endif -%}\n\n z", "{% raw %}\n a\n {% endraw %}\n b",
             "{{ 'a' }}\n{{ 'b' }}\n\n", "x \t {% if 1 %} {% endif %} \n\t{% if 1 %}\n{% endif %}", "{% generation %}\n a{% endgeneration %}\nb"]

TOOL = {"type": "function", "function": {
    "name": "get_weather", "description": "Weather <now> & \"later\" for it's é",
    "parameters": {"type": "object", "required": ["city"], "properties": {
        "city": {"type": "string", "description": "City"}, "days": {"type": "integer", "enum": [1, 2.5, None, True]},
        "Also": {"type": ["string", "null"]}}}}}


def call(arguments, **more):
    return {"role": "assistant", "tool_calls": [
        {"id": "call00001", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}], **more}


def conversations():
    user, answer = {"role": "user", "content": "Hi there"}, {"role": "assistant", "content": "Hello!"}
    system = {"role": "system", "content": "  Be brief.\n"}
    result = {"role": "tool", "content": "{\"t\": 21}", "tool_call_id": "call00001", "name": "get_weather"}
    parts = {"role": "user", "content": [{"type": "text", "text": "part one"}, {"type": "text", "text": "two"}]}
    return {
        "user": {"messages": [user], "add_generation_prompt": True},
        "pair": {"messages": [user, answer]},
        "system": {"messages": [system, user, answer, user], "add_generation_prompt": True},
        "turns": {"messages": [user, answer] * 3},
        "empty content": {"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}]},
        "none content": {"messages": [user, {"role": "assistant", "content": None}]},
        "no content": {"messages": [user, {"role": "assistant"}]},
        "unicode": {"messages": [{"role": "user", "content": "naïve 日本語 😀\u2028\u00a0 ΑΣ"},
                                 {"role": "assistant", "content": "\tß\n\n é\u0301 "}]},
        "tags": {"messages": [user, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyes <|im_end|>"}, user,
                              {"role": "assistant", "content": "b", "reasoning_content": "because"}]},
        "tools": {"messages": [system, user], "tools": [TOOL, TOOL], "add_generation_prompt": True},
        "tool call": {"messages": [user, call({"city": "Zürich", "days": 2, "x": [1.5, None, {"a": True}]}, content=""),
                                   result, answer], "tools": [TOOL]},
        "tool call, none": {"messages": [user, call({"city": "a"}, content=None), result], "tools": [TOOL],
                            "add_generation_prompt": True},
        "tool call, string": {"messages": [user, call("{\"city\": \"a\"}"), result, result, answer], "tools": [TOOL]},
        "tool call, text": {"messages": [user, call({}, content="Let me see", reasoning_content="r"), result]},
        "parts": {"messages": [parts, {"role": "assistant", "content": [{"type": "text", "text": "ok"}]}]},
        "two users": {"messages": [user, user, answer]},
        "assistant first": {"messages": [answer, user]},
        "system only": {"messages": [system]},
        "unknown role": {"messages": [{"role": "critic", "content": "no"}, user]},
        "developer": {"messages": [{"role": "developer", "content": "Do."}, user, answer]},
        "no messages": {"messages": [], "add_generation_prompt": True},
        "extra fields": {"messages": [dict(user, name="bob", weight=0.5), dict(answer, train=False)]},
    }


SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def templates():
    found = dict(FAMILIES)
    found.update({f"feature {i}: {text[:60]!r}": text for i, text in enumerate(FEATURES, 1)})
    folder = pathlib.Path(importlib.util.find_spec("trl").origin).parent / "chat_templates"
    found.update({"trl/" + p.name: p.read_text() for p in sorted(folder.glob("*.jinja"))})
    return found


def expected(tokenizer, text, row):
    """("text", rendered) or ("error", reason). An error of a Python limit counts as one of the template's."""
    options = {"tools": row.get("tools"), "chat_template": text, "add_generation_prompt": row.get("add_generation_prompt", False)}
    try:
        if row["messages"]:
            return "text", tokenizer.apply_chat_template(row["messages"], tokenize=False, **options)
        # apply_chat_template has no empty conversations; templates see them all the same.
        return "text", render_jinja_template(conversations=[[]], **options, **SPECIAL)[0][0]
    except (jinja2.TemplateError, ArithmeticError, TypeError, ValueError, LookupError, AttributeError,
            SyntaxError, RecursionError) as e:
        return "error", f"{type(e).__name__}: {e}"


def lema_render(folder, rows):
    """One result for each row, from the real command; the template is the folder's."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    run = subprocess.run([os.environ["LEMA"], "tokenize", "--model", str(folder), "--chat", "--render"], input=lines,
                         capture_output=True, encoding="utf-8", timeout=300)
    if run.returncode not in (0, 3):
        raise SystemExit(f"lema tokenize: exit {run.returncode}: {run.stderr}")
    out = [json.loads(line) for line in run.stdout.split("\n") if line]
    if not out and run.returncode == 3:  # the template itself was refused
        return [("error", run.stderr.strip())] * len(rows)
    if len(out) != len(rows):
        raise SystemExit(f"lema tokenize: {len(out)} lines for {len(rows)} rows: {run.stderr}")
    return [("text", o["text"]) if "text" in o else ("error", o["error"]) for o in out]


def model_folder(root, template):
    """The least that tokenize needs: a byte-level tokenizer with its special tokens, and the template."""
    alphabet = [chr(b) for b in (*range(33, 127), *range(161, 173), *range(174, 256))]
    alphabet += [chr(256 + i) for i in range(256 - len(alphabet))]
    vocab = {c: i for i, c in enumerate(sorted(alphabet))}
    added = [{"id": 256 + i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for i, t in enumerate(SPECIAL.values())]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
                 "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
                 "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                           "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                           "ignore_merges": False, "vocab": vocab, "merges": []}}
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 260, "hidden_size": 16,
              "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
              "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "bos_token_id": 256, "eos_token_id": 257}
    (root / "tokenizer.json").write_text(json.dumps(tokenizer))
    (root / "config.json").write_text(json.dumps(config))
    (root / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **SPECIAL}))
    (root / "chat_template.jinja").write_bytes(template.encode())
    return root


def named(**sources):
    return [{"name": name, "template": text} for name, text in sources.items()]


# Where a folder may keep templates: chat_template of tokenizer_config.json, then files.
LAYOUTS = [
    ("config", {}), (named(default="config default", tool_use="config tools", rag="config rag"), {}), (named(tool_use="only tools"), {}),
    ("config", {"chat_template.jinja": "file"}), (None, {"chat_template.jinja": "file"}), (None, {}),
    (named(default="config default", tool_use="config tools"), {"chat_template.jinja": "file"}),
    (None, {"chat_template.jinja": "file", "additional_chat_templates/tool_use.jinja": "file tools"}),
    ("config", {"chat_template.jinja": "file", "additional_chat_templates/rag.jinja": "file rag"}),
    ("config", {"additional_chat_templates/tool_use.jinja": "file tools"}),
    (named(default="config default"), {"additional_chat_templates/default.jinja": "named default"}),
]


def compare_choices(rows):
    """Which of a folder's templates writes a conversation; returns (comparisons, differences)."""
    compared = failed = 0
    for at, (config, files) in enumerate(LAYOUTS):
        with tempfile.TemporaryDirectory() as tmp:
            root = model_folder(pathlib.Path(tmp), "")
            (root / "chat_template.jinja").unlink()
            (root / "tokenizer_config.json").write_text(json.dumps(
                {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": config, **SPECIAL}))
            for name, text in files.items():
                (root / name).parent.mkdir(exist_ok=True)
                (root / name).write_text(text)
            tokenizer = PreTrainedTokenizerFast.from_pretrained(root)
            for row, wanted in [(rows["pair"], None), (rows["tools"], None), (rows["pair"], "rag"), (rows["tools"], "tool_use")]:
                known = isinstance(tokenizer.chat_template, dict) and wanted in tokenizer.chat_template
                if wanted and not known:
                    continue  # for transformers it is the template's text then, for lema a file's name
                try:
                    want = tokenizer.apply_chat_template(row["messages"], tools=row.get("tools"), tokenize=False,
                                                         chat_template=wanted)
                except ValueError as e:
                    want = None
                run = subprocess.run([os.environ["LEMA"], "tokenize", "--model", str(root), "--chat", "--render",
                                      *(["--chat-template", wanted] if wanted else [])], input=json.dumps(row) + "\n",
                                     capture_output=True, encoding="utf-8", timeout=60)
                got = json.loads(run.stdout)["text"] if run.returncode == 0 else None
                compared += 1
                if got != want or (want is None and run.returncode != 2):
                    failed += 1
                    print(f"DIFFERS: layout {at}, asked for {wanted}: want {want!r}, got {got!r} {run.stderr}")
    return compared, failed


def main():
    rows = conversations()
    compared = failed = published = 0
    with tempfile.TemporaryDirectory() as tmp:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(model_folder(pathlib.Path(tmp), ""))
        for name, text in templates().items():
            use = {"pair": rows["pair"]} if name.startswith("feature") else rows
            published += name.startswith("trl/")
            ours = lema_render(model_folder(pathlib.Path(tmp), text), list(use.values()))
            for (row_name, row), got in zip(use.items(), ours):
                want = expected(tokenizer, text, row)
                compared += 1
                if got[0] == want[0] and (got[0] == "error" or got[1] == want[1]):
                    continue
                failed += 1
                print(f"DIFFERS: {name} / {row_name}\n  jinja2 {want[0]}: {want[1]!r:.1500}\n  lema   {got[0]}: {got[1]!r:.1500}")
    choices, wrong_choices = compare_choices(rows)
    print(f"{choices} choices among a folder's templates compared, {wrong_choices} differ")
    with_tools = sum("tools" in row for row in rows.values())
    print(f"{published} published templates x {len(rows)} conversations, {with_tools} of them with tools")
    print(f"{compared} renderings compared, {failed} differ")
    if published < 40 or len(rows) < 12:
        print("expected at least 40 published templates and 12 conversations")
        return 1
    return 1 if failed + wrong_choices else 0


if __name__ == "__main__":
    sys.exit(main())
