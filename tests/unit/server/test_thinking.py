"""Levels and budgets of thinking in the requests of every API, on models whose words mean nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from edgellm.engine.load_options import LoadOptions
from tests.support.http_server import running
from tests.support.tiny_model import TEMPLATE, write_tiny_model

# Prompts show the variables that they were made with, in tokens that count_tokens and usage count.
SWITCH = TEMPLATE.replace(
    "assistant: ", "assistant: {{ '</think>off' if enable_thinking is false else '<think>' }}"
)
EFFORT = (
    "{% set words = {'low': '1', 'medium': '22', 'high': '333'} %}"
    "{{ words[reasoning_effort | default('medium')] }}"
    + TEMPLATE.replace("assistant: ", "assistant: <think>")
)
ALWAYS = TEMPLATE.replace("assistant: ", "assistant: <think>")
HI = [{"role": "user", "content": "hi"}]
IGNORED = "X-Edgellm-Ignored"
CLOSE = "\n</think>\n\n"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("models")
    templates = {"switch": SWITCH, "effort": EFFORT, "always": ALWAYS, "plain": TEMPLATE}
    window = {"llama.context_length": 1024}
    models = [
        (name, write_tiny_model(folder / f"{name}.gguf", template=text, **window))
        for name, text in templates.items()
    ]
    with running(models, LoadOptions(threads=1, parallel=4)) as server, server.client() as opened:
        yield opened


def openai(client: httpx.Client, model: str, **fields: Any) -> httpx.Response:
    body = {"model": model, "messages": HI, "max_tokens": 60, "seed": 1, "temperature": 1.0, **fields}
    return client.post("/v1/chat/completions", json=body)


def ollama(client: httpx.Client, model: str, **fields: Any) -> httpx.Response:
    options = {"num_predict": 8, "seed": 1}
    body = {"model": model, "messages": HI, "stream": False, "options": options, **fields}
    return client.post("/api/chat", json=body)


def responses(client: httpx.Client, model: str, **fields: Any) -> httpx.Response:
    body = {"model": model, "input": "hi", "max_output_tokens": 8, **fields}
    return client.post("/v1/responses", json=body)


def anthropic(client: httpx.Client, model: str, **fields: Any) -> httpx.Response:
    body = {"model": model, "messages": HI, "max_tokens": 60, **fields}
    return client.post("/v1/messages", json=body)


def n_prompt(response: httpx.Response) -> int:
    """Number of prompt tokens, which tells the variables that the template got."""
    assert response.status_code == 200, response.text
    body = response.json()
    if "prompt_eval_count" in body:
        return int(body["prompt_eval_count"])
    usage = body["usage"]
    return int(usage.get("prompt_tokens", usage.get("input_tokens"))) + int(
        usage.get("cache_read_input_tokens", 0)
    )


OFF: list[tuple[Any, dict[str, Any]]] = [
    (openai, {"reasoning_effort": "none"}),
    (openai, {"chat_template_kwargs": {"enable_thinking": False}}),
    (responses, {"reasoning": {"effort": "none"}}),
    (anthropic, {"thinking": {"type": "disabled"}}),
    (ollama, {"think": False}),
]
ON: list[tuple[Any, dict[str, Any]]] = [
    (openai, {"reasoning_effort": "low"}),
    (responses, {"reasoning": {"effort": "high"}}),
    (anthropic, {"thinking": {"type": "enabled", "budget_tokens": 2000}}),
    (anthropic, {"thinking": {"type": "adaptive"}}),
    (ollama, {"think": True}),
    (ollama, {"think": "high"}),
]


@pytest.mark.parametrize(("ask", "fields"), OFF)
def test_every_api_switches_thoughts_off(client: httpx.Client, ask: Any, fields: dict[str, Any]) -> None:
    plain, off = ask(client, "switch"), ask(client, "switch", **fields)
    assert n_prompt(off) - n_prompt(plain) == len("</think>off") - len("<think>")
    assert IGNORED not in off.headers


@pytest.mark.parametrize(("ask", "fields"), ON)
def test_every_api_switches_thoughts_on(client: httpx.Client, ask: Any, fields: dict[str, Any]) -> None:
    on = ask(client, "switch", **fields)
    assert n_prompt(on) == n_prompt(ask(client, "switch"))
    assert IGNORED not in on.headers


@pytest.mark.parametrize(("level", "more"), [("low", -1), ("medium", 0), ("high", 1), ("minimal", -1)])
def test_efforts_reach_the_template(client: httpx.Client, level: str, more: int) -> None:
    for ask, fields in (
        (openai, {"reasoning_effort": level}),
        (responses, {"reasoning": {"effort": level}}),
        (ollama, {"think": level}),
    ):
        response = ask(client, "effort", **fields)
        assert n_prompt(response) - n_prompt(ask(client, "effort")) == more
        assert IGNORED not in response.headers


@pytest.mark.parametrize(
    ("ask", "model", "fields", "named"),
    [
        (openai, "always", {"reasoning_effort": "none"}, "reasoning_effort"),
        (openai, "plain", {"reasoning_effort": "high", "thinking_budget_tokens": 5},
         "reasoning_effort, thinking_budget_tokens"),
        (openai, "effort", {"reasoning_effort": "none"}, "reasoning_effort"),
        (responses, "plain", {"reasoning": {"effort": "low", "summary": "auto"}},
         "reasoning.effort, reasoning.summary"),
        (anthropic, "plain", {"thinking": {"type": "enabled", "budget_tokens": 1024}},
         "thinking, thinking.budget_tokens"),
        (ollama, "always", {"think": False}, "think"),
        (openai, "always", {"chat_template_kwargs": {"enable_thinking": False}},
         "chat_template_kwargs.enable_thinking"),
    ],
)  # fmt: skip
def test_fields_that_a_template_cannot_honour_are_named(
    client: httpx.Client, ask: Any, model: str, fields: dict[str, Any], named: str
) -> None:
    response = ask(client, model, **fields)
    assert n_prompt(response) == n_prompt(ask(client, model))
    assert response.headers[IGNORED] == named


def test_a_prompt_without_template_takes_no_level(client: httpx.Client) -> None:
    body = {"model": "switch", "prompt": "hi", "raw": True, "think": False, "stream": False}
    response = client.post("/api/generate", json={**body, "options": {"num_predict": 2}})
    assert response.status_code == 200
    assert response.headers[IGNORED] == "think"


def test_own_variables_win(client: httpx.Client) -> None:
    both = openai(client, "switch", reasoning_effort="high", chat_template_kwargs={"enable_thinking": False})
    assert n_prompt(both) > n_prompt(openai(client, "switch"))


@pytest.mark.parametrize(
    ("ask", "fields", "named"),
    [
        (openai, {"reasoning_effort": "loud"}, "reasoning_effort"),
        (openai, {"thinking_budget_tokens": -5}, "thinking_budget_tokens"),
        (responses, {"reasoning": {"effort": "loud"}}, "reasoning.effort"),
        (anthropic, {"thinking": {"type": "loud"}}, "thinking"),
        (anthropic, {"thinking": {"type": "enabled", "budget_tokens": "many"}}, "budget_tokens"),
        (ollama, {"think": "loud"}, "think"),
    ],
)
def test_unknown_values_are_refused_by_name(
    client: httpx.Client, ask: Any, fields: dict[str, Any], named: str
) -> None:
    response = ask(client, "switch", **fields)
    assert response.status_code == 400
    assert named in response.text


def streamed(client: httpx.Client, **fields: Any) -> tuple[str, str]:
    """(thoughts, words) of a stream."""
    thoughts = words = ""
    body = {"model": "always", "messages": HI, "stream": True, "temperature": 1.0, "max_tokens": 60, **fields}
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                delta = json.loads(line[6:])["choices"][0]["delta"]
                thoughts += delta.get("reasoning_content") or ""
                words += delta.get("content") or ""
    return thoughts, words


@pytest.mark.parametrize("field", ["thinking_budget_tokens", "thinking_token_budget"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_budget_ends_the_thought(client: httpx.Client, field: str, seed: int) -> None:
    fields: dict[str, Any] = {field: 10, "seed": seed, "ignore_eos": True}
    message = openai(client, "always", **fields).json()["choices"][0]["message"]
    thoughts, words = streamed(client, **fields)
    assert words
    assert message["content"].strip() == words.strip()
    assert message.get("reasoning_content", "") == thoughts.strip("\n")
    assert len(thoughts.encode(errors="replace")) <= 3 * 10 + 1


def test_a_budget_of_anthropic_ends_the_thought(client: httpx.Client) -> None:
    thinking = {"type": "enabled", "budget_tokens": 3}
    kinds = []
    for _ in range(8):
        blocks = anthropic(client, "always", thinking=thinking, temperature=1.0).json()["content"]
        kinds += [block["type"] for block in blocks]
    assert "text" in kinds


def test_a_budget_holds_with_tools_and_schemas(client: httpx.Client) -> None:
    form = {"type": "json_schema", "json_schema": {"schema": {"enum": ["yes"]}}}
    message = openai(client, "always", thinking_budget_tokens=5, response_format=form).json()["choices"][0]
    assert message["message"]["content"] == '"yes"'
    tool = {"type": "function", "function": {"name": "wait", "parameters": {"type": "object"}}}
    choice = openai(
        client, "always", thinking_budget_tokens=5, tools=[tool], tool_choice="required", max_tokens=200
    ).json()["choices"][0]
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "wait"
