#!/usr/bin/env python3
"""Writes tests/golden/template_syntax.json: chat templates and what Jinja, as transformers sets it up, says of them.

Made with transformers 5.23.0 and Jinja2 3.1.6:
    python tests/oracles/make_template_syntax.py > tests/golden/template_syntax.json
"""
import importlib.metadata
import json
import sys

import jinja2
from transformers.utils.chat_template_utils import _compile_jinja_template

TEMPLATES = [
    "", "plain { text } and } more", "{{ messages }}", "{{- a -}}{%- if a -%}b{%- endif -%}", "{{ -1 + 2 }}", "{{+ 1 }}",
    "{% if a %}{% elif b %}{% else %}{% endif %}", "{% for m in messages if m %}{{ m }}{% else %}none{% endfor %}",
    "{% for m in messages recursive %}{{ loop(m) }}{% endfor %}", "{% for a in b %}{% break %}{% continue %}{% endfor %}",
    "{{ {'a': {'b': [1, (2, 3)]}} }}", "{{ {}}}", "{% set x = {'a': 1}%}", "{% set x %}text{% endset %}{{ x }}",
    "{% set x | upper %}text{% endset %}", "{% set x = 'a' == 'b' %}", "{% set ns.x, y = 1, 2 %}",
    "{% set x | replace('a', count=1) %}t{% endset %}", "{{ 'a' \"b\" }}", "{{ '}}' }}{{ \"%}{%\" }}", "{{ '\\'' }}",
    "{% macro f(a, b=1) %}{{ a }}{% endmacro %}{{ f(1, *c, **d) }}", "{% call(x) f() %}{{ x }}{% endcall %}",
    "{% filter upper %}a{% endfilter %}", "{% with a = 1 %}{% endwith %}", "{% with %}{% endwith %}",
    "{% generation %}a{% endgeneration %}", "{% raw %}{{ {% if %} }}{% endraw %}", "{%- raw -%} {{ {%- endraw -%}",
    "{# {{ {% #}", "{# a #}{{ b }}", "{{ a[1:-1] }}{{ a[::2] }}{{ a.b.0 }}", "{{ 1e-5 // 2 ** 3 ~ a | join(', ') }}",
    "{{ a is divisibleby 3 }}{{ a is not none }}{{ not a in b }}", "{{ a if b }}{{ a if b else c }}", "{{ 'ünï' }}",
    "{% block a %}{% endblock a %}", "{% autoescape false %}{% endautoescape %}", "{{ \"a\nb\" }}", "{ { a } }", "{",
    # Errors.
    "{{ a", "{{ a }", "{% if a", "{% if a %}", "{% if a }}b{% endif %}", "{# a", "{{ 'a }}", "{{ \"a\\\" }}", "{{ }}", "{% %}",
    "{{ a[0 }}", "{{ (a] }}", "{{ a) }}", "{{ {'a': 1 }}", "{% for m in messages %}{{ m }}", "{% endif %}", "{% else %}",
    "{% for m in x %}{% endif %}", "{% for m in x %}{% elif a %}{% endfor %}", "{% if a %}{% else %}{% else %}{% endif %}",
    "{% if a %}{% else %}{% elif b %}{% endif %}", "{% macro f() %}{% else %}{% endmacro %}", "{% if a %}{% for b in c %}{% endif %}{% endfor %}",
    "{% iff a %}{% endif %}", "{% do a %}", "{{ a & b }}", "{{ a ? b }}", "{{ a $ }}", "{{ `a` }}", "{% raw %}{{ a }}", "{% set x %}a",
    "{{ a }}\n\n{% endfor %}", "{% trans %}a{% endtrans %}", "{% generation %}a", "{{ a @ b }}", "{% 1 %}",
]
# Errors in the grammar of expressions, which Retort does not read.
GRAMMAR = ["{{ a b }}", "{{ a + }}", "{% if %}{% endif %}", "{% for %}{% endfor %}", "{{ a | }}", "{{ a.. }}", "{{ 1 = 2 }}"]


def error_of(text):
    try:
        _compile_jinja_template(text)
    except jinja2.TemplateSyntaxError as error:
        return f"line {error.lineno}: {error.message}"


def entries(texts, **more):
    return [{"template": text, "error": error_of(text), **more} for text in texts]


json.dump({"transformers": importlib.metadata.version("transformers"), "jinja2": importlib.metadata.version("jinja2"),
           "templates": entries(TEMPLATES) + entries(GRAMMAR, grammar=True)}, sys.stdout, indent=1)
sys.stdout.write("\n")
