"""Forced tool calls through every API, on models of random weights behind each template's way of writing.

    python -m tests.forced_calls [-n 1000] [--seed 1] [TEMPLATE ...]

Templates are those of tests/data/templates. Each request forces a call of one of two tools; answers come
whole or streamed, and their calls must name a tool and fit its schema. Models that think have a budget of a
few tokens, which must end their thoughts. Prints each fault; the exit status is 1 if there is one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jsonschema

from edgellm.chat.learning import learn
from edgellm.engine.load_options import LoadOptions
from tests.support.http_server import Running, running
from tests.support.paths import TEMPLATES
from tests.support.tiny_model import write_tiny_model
from tests.support.vocabularies import small_bpe

SCHEMAS: dict[str, dict[str, Any]] = {
    "look": {
        "type": "object",
        "properties": {
            "kind": {"enum": ["a", "two words", "zwölf"]},
            "size": {"type": "integer", "minimum": 1, "maximum": 99},
            "deep": {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]},
        },
        "required": ["kind", "size"],
        "additionalProperties": False,
    },
    "add": {
        "type": "object",
        "properties": {"flag": {"type": "boolean"}, "sign": {"enum": ["+", "-"]}},
        "required": ["flag"],
        "additionalProperties": False,
    },
}
DIALECTS = ("chat", "responses", "anthropic", "ollama")
BUDGET = 5
_PATHS = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "anthropic": "/v1/messages",
    "ollama": "/api/chat",
}


@dataclass(frozen=True)
class Read:
    """Calls, as (name, arguments), thoughts and words of an answer."""

    calls: list[tuple[str, Any]]
    thoughts: str
    words: str


def body(dialect: str, model: str, *, stream: bool, seed: int, thinks: bool) -> dict[str, Any]:
    """The request that forces a call."""
    functions = [
        {"name": name, "description": "A tool.", "parameters": schema} for name, schema in SCHEMAS.items()
    ]
    common: dict[str, Any] = {"model": model, "stream": stream}
    messages = [{"role": "user", "content": f"hi {seed}"}]
    if dialect == "anthropic":
        tools = [{"name": f["name"], "input_schema": f["parameters"]} for f in functions]
        thinking = {"thinking": {"type": "enabled", "budget_tokens": BUDGET}} if thinks else {}
        made = {"messages": messages, "max_tokens": 6000, "tools": tools, "tool_choice": {"type": "any"}}
        return common | made | thinking
    budget = {"thinking_budget_tokens": BUDGET} if thinks else {}
    if dialect == "responses":
        listed = [{"type": "function", **f} for f in functions]
        made = {"input": messages, "max_output_tokens": 6000, "tools": listed}
        return common | made | budget | {"tool_choice": "required"}
    tools = [{"type": "function", "function": f} for f in functions]
    made = {"messages": messages, "tools": tools, "tool_choice": "required"} | budget
    if dialect == "ollama":
        return common | made | {"options": {"num_predict": 6000, "temperature": 1, "seed": seed}}
    return common | made | {"max_tokens": 6000, "temperature": 1, "seed": seed}


def read_whole(dialect: str, answer: dict[str, Any]) -> Read:
    """A whole answer."""
    if dialect == "chat":
        message = answer["choices"][0]["message"]
        calls = [_function(call["function"]) for call in message.get("tool_calls") or ()]
        return Read(calls, message.get("reasoning_content") or "", message.get("content") or "")
    if dialect == "ollama":
        message = answer["message"]
        calls = [(c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls") or ()]
        return Read(calls, message.get("thinking") or "", message.get("content") or "")
    if dialect == "anthropic":
        blocks = answer["content"]
        calls = [(b["name"], b["input"]) for b in blocks if b["type"] == "tool_use"]
        thoughts = "".join(b["thinking"] for b in blocks if b["type"] == "thinking")
        return Read(calls, thoughts, "".join(b["text"] for b in blocks if b["type"] == "text"))
    items = answer["output"]
    calls = [_function(item) for item in items if item["type"] == "function_call"]
    parts = [(item["type"], part["text"]) for item in items for part in item.get("content") or ()]
    thoughts = "".join(text for kind, text in parts if kind == "reasoning")
    return Read(calls, thoughts, "".join(text for kind, text in parts if kind == "message"))


def _function(given: dict[str, Any]) -> tuple[str, Any]:
    return given["name"], json.loads(given["arguments"])


def read_stream(dialect: str, text: str) -> Read:
    """A streamed answer, put together from its pieces."""
    if dialect == "ollama":
        events = [json.loads(line) for line in text.splitlines() if line]
        read = [read_whole(dialect, event) for event in events]
        return Read(
            [call for one in read for call in one.calls],
            "".join(one.thoughts for one in read),
            "".join(one.words for one in read),
        )
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    events = [json.loads(line) for line in lines if line != "[DONE]"]
    calls: dict[int, list[str]] = {}
    thoughts, words = "", ""
    for event in events:
        kind = event.get("type", "")
        if dialect == "chat":
            for choice in event["choices"]:
                delta = choice["delta"]
                thoughts += delta.get("reasoning_content") or ""
                words += delta.get("content") or ""
                for call in delta.get("tool_calls") or ():
                    held = calls.setdefault(call["index"], ["", ""])
                    held[0] += call["function"].get("name") or ""
                    held[1] += call["function"].get("arguments") or ""
        elif dialect == "anthropic":
            if kind == "content_block_start" and event["content_block"]["type"] == "tool_use":
                calls[event["index"]] = [event["content_block"]["name"], ""]
            elif kind == "content_block_delta":
                delta = event["delta"]
                if delta["type"] == "input_json_delta":
                    calls[event["index"]][1] += delta["partial_json"]
                thoughts += delta.get("thinking", "")
                words += delta.get("text", "")
        elif kind == "response.output_item.added" and event["item"]["type"] == "function_call":
            calls[event["output_index"]] = [event["item"]["name"], ""]
        elif kind == "response.function_call_arguments.delta":
            calls[event["output_index"]][1] += event["delta"]
        elif kind == "response.reasoning_text.delta":
            thoughts += event["delta"]
        elif kind == "response.output_text.delta":
            words += event["delta"]
    return Read([(name, json.loads(given or "{}")) for name, given in calls.values()], thoughts, words)


def fault_of(read: Read) -> str | None:
    """The first thing about an answer that is not as a forced call must be."""
    if not read.calls:
        return f"no call, but {read!r}"[:300]
    if read.words.strip():
        return f"words beside the calls: {read.words[:200]!r}"
    for name, arguments in read.calls:
        if name not in SCHEMAS:
            return f"a call of {name!r}"
        try:
            jsonschema.validate(arguments, SCHEMAS[name])
        except jsonschema.ValidationError as error:
            return f"{name} with {arguments}: {error.message}"
    return None


@contextmanager
def models(names: Sequence[str], folder: Path) -> Iterator[tuple[Running, dict[str, bool]]]:
    """A server of a model behind each template, and those models that think within a budget.

    Marks of every second template are control tokens of its vocabulary, those of the others texts.
    """
    served, thinking = [], {}
    for number, name in enumerate(names):
        source = (TEMPLATES / f"{name}.jinja").read_text()
        syntax = learn(source)
        changes: dict[str, object] = {}
        if number % 2:
            marks = sorted({mark for text in syntax.texts() for mark in _tags(text)})
            vocabulary = small_bpe()
            tokens, kinds = vocabulary["tokenizer.ggml.tokens"], vocabulary["tokenizer.ggml.token_type"]
            assert isinstance(tokens, list)
            assert isinstance(kinds, list)
            changes = {
                "tokenizer.ggml.tokens": [*tokens, *marks],
                "tokenizer.ggml.token_type": [*kinds, *[3] * len(marks)],
            }
        window = {"llama.context_length": 8192}
        served.append((name, write_tiny_model(folder / f"{name}.gguf", template=source, **window, **changes)))
        thinking[name] = syntax.limits_thoughts
    options = LoadOptions(threads=1, context=8192, parallel=1, cache_tokens=8192)
    with running(served, options) as server:
        yield server, thinking


def _tags(text: str) -> list[str]:
    from edgellm.chat.syntax import atoms, first_mark

    return [atom for atom in atoms(text) if first_mark(atom) == atom and "=" not in atom and '"' not in atom]


def run(names: Sequence[str], n: int, seed: int) -> tuple[int, int, list[str]]:
    """Ask n times over the templates, APIs and both ways: (valid, with thoughts that ended, faults)."""
    faults: list[str] = []
    n_valid = n_thoughts = 0
    with tempfile.TemporaryDirectory() as folder, models(names, Path(folder)) as (server, thinking):
        asked = itertools.cycle(itertools.product(names, DIALECTS, (False, True)))
        with httpx.Client(base_url=server.url, timeout=120) as client:
            for number, (name, dialect, stream) in enumerate(itertools.islice(asked, n)):
                given = body(dialect, name, stream=stream, seed=seed + number, thinks=thinking[name])
                response = client.post(_PATHS[dialect], json=given)
                if response.status_code != 200:
                    fault: str | None = f"{response.status_code}: {response.text[:300]}"
                else:
                    text = response.text
                    read = read_stream(dialect, text) if stream else read_whole(dialect, response.json())
                    fault = fault_of(read)
                    n_thoughts += bool(read.thoughts.strip()) and fault is None
                if fault is None:
                    n_valid += 1
                else:
                    faults.append(f"{name}, {dialect}{', streamed' if stream else ''}, {number}: {fault}")
    return n_valid, n_thoughts, faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-n", type=int, default=1000, help="requests")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("templates", nargs="*")
    given = parser.parse_args()
    names = given.templates or sorted(path.stem for path in TEMPLATES.glob("*.jinja"))
    begun = time.process_time()
    n_valid, n_thoughts, faults = run(names, given.n, given.seed)
    for fault in faults:
        print(fault)
    seconds = time.process_time() - begun
    print(
        f"{n_valid} of {given.n} answers are valid calls, {n_thoughts} after thoughts; {seconds:.0f} s of CPU"
    )
    return min(len(faults), 1)


if __name__ == "__main__":
    sys.exit(main())
