"""Costs of everything that a template can call: a row for each, and what is charged is what the row says."""

from __future__ import annotations

import pytest
from jinja2.compiler import operators

from edgellm.chat.budget import Budget
from edgellm.chat.sandbox import METHODS, TemplateSandbox, sandbox

# An expression, and the steps that it pays for each 1,000 characters or items of what it is given. A new
# filter, test, method or operator needs a row: measure its worst case first, at a step for a microsecond.
# Work that does not grow is 0: the loop or macro around it pays by its number of parts.
COSTS = {
    "str.capitalize": ("text.capitalize()", 16),
    "str.casefold": ("text.casefold()", 8),
    "str.center": ("text.center(9)", 8),
    "str.count": ("text.count('b')", 8),
    "str.endswith": ("text.endswith('a')", 8),
    "str.find": ("text.find('z')", 8),
    "str.format": ("text.format()", 31),
    "str.index": ("text.index('b')", 8),
    "str.isalnum": ("text.isalnum()", 8),
    "str.isalpha": ("text.isalpha()", 8),
    "str.isascii": ("text.isascii()", 8),
    "str.isdecimal": ("text.isdecimal()", 8),
    "str.isdigit": ("text.isdigit()", 8),
    "str.isidentifier": ("text.isidentifier()", 8),
    "str.islower": ("text.islower()", 8),
    "str.isnumeric": ("text.isnumeric()", 8),
    "str.isprintable": ("text.isprintable()", 8),
    "str.isspace": ("text.isspace()", 8),
    "str.istitle": ("text.istitle()", 8),
    "str.isupper": ("text.isupper()", 8),
    "str.join": ("','.join(items)", 1012),
    "str.ljust": ("text.ljust(9)", 8),
    "str.lower": ("text.lower()", 8),
    "str.lstrip": ("text.lstrip()", 8),
    "str.partition": ("text.partition('b')", 8),
    "str.removeprefix": ("text.removeprefix('a')", 8),
    "str.removesuffix": ("text.removesuffix('a')", 8),
    "str.replace": ("text.replace('b', 'c')", 44),
    "str.rfind": ("text.rfind('z')", 10),
    "str.rindex": ("text.rindex('b')", 10),
    "str.rjust": ("text.rjust(9)", 8),
    "str.rpartition": ("text.rpartition('b')", 10),
    "str.rsplit": ("text.rsplit(' ')", 117),
    "str.rstrip": ("text.rstrip()", 8),
    "str.split": ("text.split(' ')", 115),
    "str.splitlines": ("text.splitlines()", 31),
    "str.startswith": ("text.startswith('a')", 8),
    "str.strip": ("text.strip()", 8),
    "str.swapcase": ("text.swapcase()", 16),
    "str.title": ("text.title()", 63),
    "str.upper": ("text.upper()", 8),
    "str.zfill": ("text.zfill(9)", 8),
    "list.count": ("items.count('ab')", 1063),
    "tuple.count": ("fixed.count('ab')", 1063),
    "list.index": ("items.index('ab')", 1063),
    "tuple.index": ("fixed.index('ab')", 1063),
    "dict.get": ("object.get('1')", 0),
    "dict.items": ("object.items()", 63),
    "dict.keys": ("object.keys()", 63),
    "dict.values": ("object.values()", 63),
    "|abs": ("7|abs", 0),
    "|attr": ("text|attr('a')", 0),
    "|batch": ("items|batch(2)|list", 1500),
    "|capitalize": ("text|capitalize", 19),
    "|center": ("text|center(9)", 8),
    "|count": ("items|count", 0),
    "|d": ("text|d('')", 0),
    "|default": ("text|default('')", 0),
    "|dictsort": ("object|dictsort", 7398),
    "|e": ("text|e", 94),
    "|escape": ("text|escape", 94),
    "|filesizeformat": ("7|filesizeformat", 0),
    "|first": ("items|first", 0),
    "|float": ("text|float", 129),
    "|forceescape": ("text|forceescape", 94),
    "|format": ("text|format()", 31),
    "|groupby": ("objects|groupby('a')", 7208),
    "|indent": ("text|indent", 31),
    "|int": ("text|int", 129),
    "|items": ("object|items", 0),
    "|join": ("items|join", 1008),
    "|last": ("items|last", 0),
    "|length": ("items|length", 0),
    "|list": ("items|list", 125),
    "|lower": ("text|lower", 12),
    "|map": ("items|map('upper')|list", 10000),
    "|max": ("items|max", 2521),
    "|min": ("items|min", 2521),
    "|pprint": ("items|pprint", 5063),
    "|random": ("items|random", 0),
    "|reject": ("items|reject('number')|list", 5000),
    "|rejectattr": ("objects|rejectattr('a')|list", 3000),
    "|replace": ("text|replace('b', 'c')", 37),
    "|reverse": ("items|reverse", 125),
    "|round": ("1.55|round(1)", 0),
    "|safe": ("text|safe", 4),
    "|select": ("items|select('string')|list", 5000),
    "|selectattr": ("objects|selectattr('a')|list", 4000),
    "|slice": ("items|slice(2)|list", 1000),
    "|sort": ("items|sort", 6896),
    "|string": ("items|string", 1063),
    "|striptags": ("text|striptags", 129),
    "|sum": ("numbers|sum", 1000),
    "|title": ("text|title", 504),
    "|tojson": ("items|tojson", 1125),
    "|trim": ("text|trim", 8),
    "|truncate": ("text|truncate", 12),
    "|unique": ("items|unique|list", 3000),
    "|upper": ("text|upper", 12),
    "|urlencode": ("text|urlencode", 129),
    "|wordcount": ("text|wordcount", 129),
    "|wordwrap": ("text|wordwrap", 296),
    "|xmlattr": ("object|xmlattr", 15000),
    "is !=": ("[text]|select('!=', text)|list", 8),
    "is <": ("[text]|select('<', text)|list", 8),
    "is <=": ("[text]|select('<=', text)|list", 8),
    "is ==": ("[text]|select('==', text)|list", 8),
    "is >": ("[text]|select('>', text)|list", 8),
    "is >=": ("[text]|select('>=', text)|list", 8),
    "is boolean": ("text is boolean", 0),
    "is callable": ("text is callable", 0),
    "is defined": ("text is defined", 0),
    "is divisibleby": ("7 is divisibleby(7)", 0),
    "is eq": ("text is eq text", 8),
    "is equalto": ("text is equalto text", 8),
    "is even": ("7 is even", 0),
    "is false": ("text is false", 0),
    "is filter": ("'upper' is filter", 0),
    "is float": ("text is float", 0),
    "is ge": ("text is ge text", 8),
    "is greaterthan": ("text is greaterthan text", 8),
    "is gt": ("text is gt text", 8),
    "is in": ("'z' is in items", 1063),
    "is integer": ("text is integer", 0),
    "is iterable": ("text is iterable", 0),
    "is le": ("text is le text", 8),
    "is lessthan": ("text is lessthan text", 8),
    "is lower": ("text is lower", 4),
    "is lt": ("text is lt text", 8),
    "is mapping": ("text is mapping", 0),
    "is ne": ("text is ne text", 8),
    "is none": ("text is none", 0),
    "is number": ("text is number", 0),
    "is odd": ("7 is odd", 0),
    "is sameas": ("text is sameas text", 0),
    "is sequence": ("text is sequence", 0),
    "is string": ("text is string", 0),
    "is test": ("'odd' is test", 0),
    "is true": ("text is true", 0),
    "is undefined": ("text is undefined", 0),
    "is upper": ("text is upper", 4),
    "==": ("text == text", 8),
    "!=": ("text != text", 8),
    "<": ("text < text", 8),
    "<=": ("text <= text", 8),
    ">": ("text > text", 8),
    ">=": ("text >= text", 8),
    "in": ("'z' in items", 1063),
    "not in": ("'z' not in items", 1063),
    "~": ("text ~ text", 8),
    "+": ("items + items", 31),
    "*": ("items * 2", 125),
    "%": ("'%s' % text", 4),
    "-": ("7 - 2", 0),
    "/": ("7 / 2", 0),
    "//": ("7 // 2", 0),
    "**": ("7 ** 2", 0),
    "[:]": ("items[1:]", 16),
    "[]": ("items[1]", 0),
    ".": ("object.a", 0),
    "dict literal": ("{text: 1}", 4),
}


def steps(environment: TemplateSandbox, expression: str, n: int) -> int:
    """Steps of one rendering over texts and lists of `n` characters or items."""
    budget = Budget(steps=10**9, text=10**9)
    variables = {
        "text": "ab " * (n // 3),
        "items": ["ab"] * n,
        "fixed": ("ab",) * n,
        "objects": [{"a": "b"}] * n,
        "numbers": [7] * n,
        "object": {str(i): i for i in range(n)},
    }
    environment.render(environment.load("{% set result = " + expression + " %}"), variables, budget)
    return 10**9 - budget.steps


@pytest.mark.parametrize("name", COSTS)
def test_an_operation_is_charged_as_its_row_says(name: str) -> None:
    expression, stated = COSTS[name]
    small, large = (steps(sandbox(), expression, n) for n in (3_000, 12_000))
    assert abs((large - small) / 9 - stated) <= 1 + stated * 0.02


def test_every_operation_has_a_row() -> None:
    environment = sandbox()
    names = {f"|{name}" for name in environment.filters} | {f"is {name}" for name in environment.tests}
    names |= set(environment.binop_table) | set(operators.values())
    for kind, methods in METHODS.items():
        if kind in (str, list, tuple, dict):
            names |= {f"{kind.__name__}.{method}" for method in methods}
    # Syntax of expressions that is neither a filter nor an operator.
    names |= {"in", "not in", "~", "[:]", "[]", ".", "dict literal"}
    assert names == set(COSTS)
