#!/usr/bin/env python3
"""Fills in what real Jinja2 gives for tests/engine/template_cases/*.txt (format: template_cases_test.cc).

For developers, after adding a case without its `@@ gives`: needs python3-jinja2 (3.1); the tests need no Python.
Run: tools/template_expectations.py FILE...      A case that Jinja2 refuses gets `@@ fails` and, to be completed by
hand, a part of our own error message. Cases marked `@@ ours` differ from Jinja2 on purpose and are left alone.
"""
import datetime
import json
import re
import sys

import jinja2
import jinja2.ext
import jinja2.sandbox


class Generation(jinja2.ext.Extension):
    """{% generation %} as in HF transformers: a block that is printed."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_print"), [], [], body).set_lineno(line)

    def _print(self, caller):
        return caller()


class Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """HF's sandbox, but lists may grow and shrink: some files' templates do so."""

    def is_safe_attribute(self, obj, attr, value):
        grows = isinstance(obj, list) and attr in ("append", "pop")
        return grows or super().is_safe_attribute(obj, attr, value)


def environment():
    env = Sandbox(trim_blocks=True, lstrip_blocks=True,
                  extensions=[Generation, "jinja2.ext.loopcontrols", "jinja2.ext.do"])
    env.filters["tojson"] = lambda x, ensure_ascii=False, indent=None, separators=None, sort_keys=False: json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = datetime.datetime(2026, 11, 25, 9, 5, 7).strftime
    return env


def context_of(words, named):
    context = {}
    while words and not words.startswith("{"):
        name, _, words = words.partition(" ")
        context.update(named[name])
    context.update(json.loads(words) if words else {})
    return context


def result_of(env, template, context):
    try:
        return "@@ gives\n" + env.from_string(template).render(**context) + "\n"
    except Exception as error:  # whatever a template makes Jinja2 raise
        return f"@@ fails\n({type(error).__name__}: {error})\n"


def filled(text, env):
    head, *cases = re.split(r"^@@ (?!with\b|gives$|fails$|ours$)", text, flags=re.M)
    named = {name: json.loads(value) for name, value in re.findall(r"^# let (\w+) (.*)$", head, re.M)}
    out = head
    for case in cases:
        title, *runs = re.split(r"^@@ with ?", case, flags=re.M)
        template = title.partition("\n")[2].rstrip("\n")
        out += "@@ " + title.rstrip("\n") + "\n"
        for run in runs:
            words, _, rest = run.partition("\n")
            is_kept = rest.startswith("@@ ours") or (rest.startswith("@@ fails") and "\n(" not in rest)
            result = result_of(env, template, context_of(words, named))
            if is_kept and rest.startswith("@@ fails") and result.startswith("@@ gives"):
                sys.exit(f"{title.splitlines()[0]}: Jinja2 does not fail")
            out += f"@@ with {words}".rstrip() + "\n" + (rest.rstrip("\n") + "\n" if is_kept else result)
    return out


if __name__ == "__main__":
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8", newline="") as file:
            new = filled(file.read(), environment())
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.write(new)
