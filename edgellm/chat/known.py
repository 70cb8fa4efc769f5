"""Ways of writing calls that models are known for, where a template only mentions them.

An entry is used if its template writes no call itself. Llama 3, Gemma 2 and 3 and SmolLM: their templates
show no calls at all, and the models were trained on these forms. The others: templates that name a mark in
their instructions, and leave it to the caller to put calls into the text.
"""

from __future__ import annotations

from dataclasses import dataclass

THOUGHTS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|channel>thought", "<channel|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis<|message|>", "<|end|>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
)
"""Marks of thoughts that templates mention, begin and end."""


TURN_END = "<|zqend|>\n"
"""The end of a turn in the templates of the entries."""


@dataclass(frozen=True, slots=True)
class Known:
    """A way of writing calls: `marks` are the texts of a template that tell of it."""

    name: str
    marks: tuple[str, ...]
    list_begin: str
    call: str
    separator: str
    list_end: str
    native: bool = True

    @property
    def template(self) -> str:
        """A small template that writes calls this way."""
        return (
            "{% for m in messages %}<|zqrole|>{{ m.role }}\n{{ m.content }}"
            "{% for c in m.tool_calls or [] %}{% set f = c.function %}{% if loop.first %}"
            + self.list_begin
            + "{% else %}"
            + self.separator
            + "{% endif %}"
            + self.call
            + "{% if loop.last %}"
            + self.list_end
            + "{% endif %}{% endfor %}<|zqend|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|zqrole|>assistant\n{% endif %}"
        )


def _json(arguments: str) -> str:
    return f'{{{{ \'{{"name": "\' + f.name + \'", "{arguments}": \' }}}}{{{{ f.arguments|tojson }}}}}}'


_XML = (
    "{% for k, v in f.arguments.items() %}{{ '<parameter=' + k + '>\n' }}"
    "{{ v if v is string else v|tojson }}{{ '\n</parameter>\n' }}{% endfor %}"
)
_PAIRS = (
    "{% for k, v in f.arguments.items() %}{{ '<arg_key>' + k + '</arg_key>\n<arg_value>' }}"
    "{{ v if v is string else v|tojson }}{{ '</arg_value>\n' }}{% endfor %}"
)
_OWN = (
    '{% macro own(v) %}{% if v is string %}<|"|>{{ v }}<|"|>{% elif v is boolean %}'
    "{{ 'true' if v else 'false' }}{% elif v is none %}null{% elif v is mapping %}"
    "{{ '{' }}{% for k, i in v.items() %}{{ k }}:{{ own(i) }}{{ ',' if not loop.last }}{% endfor %}{{ '}' }}"
    "{% elif v is iterable %}[{% for i in v %}{{ own(i) }}{{ ',' if not loop.last }}{% endfor %}]"
    "{% else %}{{ v }}{% endif %}{% endmacro %}{{ own(f.arguments) }}"
)
_PYTHON = (
    "{{ f.name }}({% for k, v in f.arguments.items() %}{{ k }}={{ '%r' % (v,) }}"
    "{{ ', ' if not loop.last }}{% endfor %})"
)

ENTRIES = (
    Known(
        "calls-begin",
        ("<｜tool▁calls▁begin｜>",),
        "{{ '<｜tool▁calls▁begin｜>' }}",
        "{{ '<｜tool▁call▁begin｜>function<｜tool▁sep｜>' + f.name + '\n```json\n' }}{{ f.arguments|tojson }}"
        "{{ '\n```<｜tool▁call▁end｜>' }}",
        "{{ '\n' }}",
        "{{ '<｜tool▁calls▁end｜>' }}",
    ),
    Known(
        "section",
        ("<|tool_calls_section_begin|>",),
        "<|tool_calls_section_begin|>",
        "<|tool_call_begin|>functions.{{ f.name }}:{{ loop.index0 }}<|tool_call_argument_begin|>"
        "{{ f.arguments|tojson }}<|tool_call_end|>",
        "",
        "<|tool_calls_section_end|>",
    ),
    Known(
        "own-strings", ("<|tool_call>",), "", "<|tool_call>call:{{ f.name }}" + _OWN + "<tool_call|>", "", ""
    ),
    Known("python", ("<|tool_call_start|>",), "<|tool_call_start|>[", _PYTHON, ", ", "]<|tool_call_end|>"),
    Known(
        "action",
        ("<|START_ACTION|>",),
        "<|START_ACTION|>[{{ '\n    ' }}",
        '{{ \'{"tool_call_id": "\' + loop.index0|string + \'", "tool_name": "\' + f.name + \'", '
        '"parameters": \' }}{{ f.arguments|tojson }}}',
        "{{ ',\n    ' }}",
        "{{ '\n]' }}<|END_ACTION|>",
    ),
    Known(
        "harmony",
        ("<|channel|>commentary", "<|channel|>analysis"),
        "",
        " to=functions.{{ f.name }}<|channel|>commentary json<|message|>{{ f.arguments|tojson }}<|call|>",
        "<|start|>assistant",
        "",
    ),
    Known(
        "mistral-ids",
        ("[CALL_ID]",),
        "",
        "[TOOL_CALLS]{{ f.name }}[CALL_ID]{{ c.id }}[ARGS]{{ f.arguments|tojson }}",
        "",
        "",
    ),
    Known("mistral", ("[ARGS]",), "", "[TOOL_CALLS]{{ f.name }}[ARGS]{{ f.arguments|tojson }}", "", ""),
    Known(
        "mistral-list",
        ("[TOOL_CALLS]",),
        "[TOOL_CALLS] [",
        '{{ \'{"name": "\' + f.name + \'", "arguments": \' }}{{ f.arguments|tojson }}'
        "{{ ', \"id\": \"' + c.id + '\"}' }}",
        ", ",
        "]",
    ),
    Known(
        "arg-key",
        ("<arg_key>",),
        "",
        "{{ '<tool_call>' + f.name + '\n' }}" + _PAIRS + "</tool_call>",
        "{{ '\n' }}",
        "",
    ),
    Known(
        "xml",
        ("<function=",),
        "",
        "{{ '<tool_call>\n<function=' + f.name + '>\n' }}" + _XML + "{{ '</function>\n</tool_call>' }}",
        "{{ '\n' }}",
        "",
    ),
    Known("llama3", ("<|start_header_id|>",), "", _json("parameters"), "; ", ""),
    Known(
        "hermes",
        ("<tool_call>",),
        "",
        "{{ '<tool_call>\n' }}" + _json("arguments") + "{{ '\n</tool_call>' }}",
        "{{ '\n' }}",
        "",
    ),
    Known("turns", ("<start_of_turn>",), "", _json("parameters"), "; ", "", native=False),
    Known("smollm", ("SmolLM",), "<tool_call>[", _json("arguments"), ", ", "]</tool_call>", native=False),
)

MARKS = tuple(dict.fromkeys(mark for known in ENTRIES for mark in known.marks))
"""Marks of all entries."""


def entry(source: str, shows_tools: bool) -> Known | None:
    """The way that a template's source tells of, if it tells of one."""
    mentions = shows_tools or "tools" in source
    for known in ENTRIES:
        usable = mentions or not known.native or known.name == "llama3"
        if usable and any(mark in source for mark in known.marks):
            return known
    return None
