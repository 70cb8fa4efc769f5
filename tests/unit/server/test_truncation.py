"""Conversations that are longer than the context: refused, or shortened where that is asked for."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

TALK = [
    {"role": "system", "content": "Be brief."},
    *[{"role": role, "content": "The same words again, and more."} for role in ("user", "assistant")] * 12,
    {"role": "user", "content": "Why?"},
]  # fmt: skip


def ask(client: httpx.Client, path: str, **fields: Any) -> httpx.Response:
    body = {"messages": TALK, "max_tokens": 4} if "chat" in path else {"input": TALK, "max_output_tokens": 4}
    return client.post(path, json={**body, **fields})


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_a_long_conversation_is_refused_unless_it_may_be_shortened(client: httpx.Client, path: str) -> None:
    assert ask(client, path).status_code == 400
    assert ask(client, path, truncation="disabled").status_code == 400
    answer = ask(client, path, truncation="auto")
    assert answer.status_code == 200
    n_dropped = int(answer.headers["X-Edgellm-Dropped-Messages"])
    assert 0 < n_dropped < len(TALK) - 1
    assert n_dropped % 2 == 0
    usage = answer.json()["usage"]
    assert usage.get("prompt_tokens", usage.get("input_tokens")) <= 192 - 4


def test_a_short_conversation_is_left_alone(client: httpx.Client) -> None:
    answer = client.post("/v1/responses", json={"input": "Hi", "max_output_tokens": 2, "truncation": "auto"})
    assert answer.json()["truncation"] == "auto"
    assert "X-Edgellm-Dropped-Messages" not in answer.headers


def test_one_message_that_is_too_long_is_refused_all_the_same(client: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": "again " * 300}], "truncation": "auto"}
    assert client.post("/v1/chat/completions", json=body).status_code == 400
