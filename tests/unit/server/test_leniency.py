"""Requests as clients of the real APIs send them: each is served as those APIs serve it."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from edgellm.engine.load_options import LoadOptions
from edgellm.server.settings import Limits, ServerSettings
from tests.support.http_server import running
from tests.support.tiny_model import write_tiny_model

CHAT: dict[str, Any] = {
    "messages": [{"role": "user", "content": "once"}],
    "max_tokens": 4,
    "temperature": 0,
    "ignore_eos": True,
}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"enum": [1]}}}},
}
OTHER: dict[str, Any] = {"type": "function", "function": {"name": "g"}}
MESSAGE: dict[str, Any] = {"messages": [{"role": "user", "content": "once"}], "max_tokens": 4}
SCHEMA = {"type": "object", "properties": {"n": {"enum": [7]}}, "required": ["n"]}
SEVEN = {"n": 7}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    path = write_tiny_model(tmp_path_factory.mktemp("models") / "tiny.gguf", **{"llama.context_length": 4096})
    settings = ServerSettings(port=0, limits=Limits(body_bytes=1_000_000))
    options = LoadOptions(threads=1, parallel=4, context=2048)
    with running([("tiny", path)], options, settings) as server, server.client() as opened:
        yield opened


def ok(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return response.json()


def text_of(client: httpx.Client, **fields: Any) -> str:
    body = {**CHAT, "max_tokens": 60, "ignore_eos": False, **fields}
    content = ok(client.post("/v1/chat/completions", json=body))["choices"][0]["message"]["content"]
    assert isinstance(content, str)
    return content


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", {"prompt": "once", "max_tokens": 2}),
        ("/v1/embeddings", {"input": "once"}),
        ("/v1/responses", {"input": "once", "max_output_tokens": 4}),
        ("/v1/messages", MESSAGE),
        ("/api/chat", {"model": "tiny", "messages": CHAT["messages"], "options": {"num_predict": 2}}),
        ("/api/generate", {"model": "tiny", "prompt": "once", "options": {"num_predict": 2}}),
        ("/api/embed", {"model": "tiny", "input": "once"}),
        ("/tokenize", {"content": "once"}),
    ],
)
def test_null_means_not_given(client: httpx.Client, path: str, body: dict[str, Any]) -> None:
    document = client.get("/openapi.json").json()
    reference = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"][
        "$ref"
    ]
    fields = document["components"]["schemas"][reference.rpartition("/")[2]]["properties"]
    nulls = dict.fromkeys((name for name in fields if name not in body), None)
    assert client.post(path, json={**nulls, **body}).status_code == 200
    if "options" in fields:
        nested = {"temperature": None, "stop": None, "num_ctx": None, "seed": None, "num_predict": 2}
        assert client.post(path, json={**body, "options": nested}).status_code == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": -1, "stop": ["e", "t", "a", "i"]},
        {"max_completion_tokens": -1, "stop": ["e", "t", "a", "i"]},
        {"top_p": 0},
        {"top_k": -1},
        {"repeat_penalty": 0},
        {"seed": -1},
        {"stop": ""},
        {"stop": ["", "never"]},
        {"stop": []},
        {"logprobs": False, "top_logprobs": 0},
        {"best_of": 1, "min_tokens": 0},
        {"modalities": ["text"]},
        {"response_format": {"type": "text"}},
        {"response_format": "text"},
    ],
    ids=str,
)
def test_values_that_switch_something_off(client: httpx.Client, fields: dict[str, Any]) -> None:
    ok(client.post("/v1/chat/completions", json={**CHAT, **fields}))


def test_a_nucleus_of_nothing_holds_the_likeliest_token(client: httpx.Client) -> None:
    greedy = ok(client.post("/v1/chat/completions", json=CHAT))["choices"]
    assert (
        ok(client.post("/v1/chat/completions", json={**CHAT, "temperature": 5, "top_p": 0}))["choices"]
        == greedy
    )


@pytest.mark.parametrize(
    "choice",
    [
        "any",
        "Required",
        "f",
        {"type": "any"},
        {"type": "required"},
        {"type": "function", "function": {"name": "f"}},
        {"type": "function", "name": "f"},
        {"type": "tool", "name": "f"},
        {"function": {"name": "f"}},
        {"name": "f"},
        {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [TOOL]}},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]},
    ],
    ids=str,
)
def test_tool_choices_that_ask_for_a_call(client: httpx.Client, choice: Any) -> None:
    named = choice == "f" or "'f'" in str(choice)
    tools = [OTHER, TOOL] if named else [TOOL]
    body = {**CHAT, "max_tokens": 90, "ignore_eos": False, "tools": tools, "tool_choice": choice}
    found = ok(client.post("/v1/chat/completions", json=body))["choices"][0]
    assert {call["function"]["name"] for call in found["message"]["tool_calls"]} == {"f"}


@pytest.mark.parametrize("choice", ["auto", "none", {"type": "auto"}, {"type": "none"}, None], ids=str)
def test_tool_choices_that_ask_for_nothing(client: httpx.Client, choice: Any) -> None:
    ok(client.post("/v1/chat/completions", json={**CHAT, "tools": [TOOL], "tool_choice": choice}))
    ok(client.post("/v1/chat/completions", json={**CHAT, "tool_choice": choice}))


@pytest.mark.parametrize(
    "choice",
    [5, [], "sometimes", {"type": "web_search"}, {"type": "function"}, {"type": "allowed_tools"}],
    ids=str,
)
def test_a_bad_tool_choice_is_named(client: httpx.Client, choice: Any) -> None:
    response = client.post("/v1/chat/completions", json={**CHAT, "tools": [TOOL], "tool_choice": choice})
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("tool_choice")
    assert "literal" not in response.text


def test_functions_are_answered_in_their_own_form(client: httpx.Client) -> None:
    body = {**CHAT, "max_tokens": 90, "ignore_eos": False, "functions": [TOOL["function"]]}
    asked = {**body, "function_call": {"name": "f"}}
    choice = ok(client.post("/v1/chat/completions", json=asked))["choices"][0]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"]["name"] == "f"
    assert "tool_calls" not in choice["message"]
    answered = [
        *CHAT["messages"],
        {"role": "assistant", "content": None, "function_call": choice["message"]["function_call"]},
        {"role": "function", "name": "f", "content": None},
    ]
    ok(client.post("/v1/chat/completions", json={**body, "messages": answered, "function_call": "none"}))


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        {"response_format": {"type": "json_schema", "schema": SCHEMA}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
        {"json_schema": SCHEMA},
        {"json_schema": json.dumps(SCHEMA)},
        {"guided_json": SCHEMA},
        {"structured_outputs": {"json": SCHEMA}},
        {"grammar": 'root ::= "{\\"n\\": 7}"'},
        {"guided_regex": r'\{"n": 7\}'},
        {"guided_choice": ['{"n": 7}']},
        {"response_format": {"type": "grammar", "grammar": 'root ::= "{\\"n\\": 7}"'}},
        {"response_format": {"type": "regex", "pattern": r'\{"n": 7\}'}},
    ],
    ids=str,
)
def test_forms_of_answers_in_all_their_fields(client: httpx.Client, fields: dict[str, Any]) -> None:
    assert json.loads(text_of(client, **fields)) == SEVEN


@pytest.mark.parametrize(
    "fields",
    [
        {"json_schema": SCHEMA, "grammar": 'root ::= "a"'},
        {"guided_choice": []},
        {"guided_json": "no json"},
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "structural_tag"}},
        {"structural_tag": {"begin": "x"}},
        {"allowed_token_ids": [1]},
    ],
    ids=str,
)
def test_forms_that_cannot_be_had_are_refused(client: httpx.Client, fields: dict[str, Any]) -> None:
    assert client.post("/v1/chat/completions", json={**CHAT, **fields}).status_code == 400


def test_a_format_and_tools_are_one_or_the_other(client: httpx.Client) -> None:
    body = {**CHAT, "max_tokens": 120, "ignore_eos": False, "tools": [TOOL]}
    body["response_format"] = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    forced = ok(client.post("/v1/chat/completions", json={**body, "tool_choice": "required"}))
    assert forced["choices"][0]["message"]["tool_calls"]
    for seed in range(6):
        hot = {**body, "temperature": 3.0, "seed": seed}
        choice = ok(client.post("/v1/chat/completions", json=hot))["choices"][0]
        if choice["finish_reason"] != "length" and not choice["message"].get("tool_calls"):
            assert json.loads(choice["message"]["content"]) == SEVEN
    named = {"type": "json_schema", "name": "x", "schema": SCHEMA}
    fields = {"tools": [{"type": "function", **TOOL["function"]}], "tool_choice": "required"}
    asked = {"input": "once", "text": {"format": named}, "max_output_tokens": 90, **fields}
    assert any(
        item["type"] == "function_call" for item in ok(client.post("/v1/responses", json=asked))["output"]
    )


@pytest.mark.parametrize("where", ["output_config", "output_format"])
def test_anthropic_s_structured_output(client: httpx.Client, where: str) -> None:
    form = {"type": "json_schema", "schema": SCHEMA}
    given = {"format": form, "effort": "low"} if where == "output_config" else form
    found = ok(client.post("/v1/messages", json={**MESSAGE, "max_tokens": 60, where: given}))
    assert json.loads(found["content"][0]["text"]) == SEVEN
    refused = client.post(
        "/v1/messages", json={**MESSAGE, where: {"format": {"type": "yaml"}, "type": "yaml"}}
    )
    assert refused.status_code == 400


@pytest.mark.parametrize("role", ["USER", "User", "Assistant", "SYSTEM"])
def test_roles_in_any_case(client: httpx.Client, role: str) -> None:
    messages = [{"role": role, "content": "a"}, {"role": "user", "content": "b"}]
    ok(client.post("/v1/chat/completions", json={**CHAT, "messages": messages}))
    ok(client.post("/v1/messages", json={**MESSAGE, "messages": messages}))
    ollama = {"model": "tiny", "messages": messages, "stream": False, "options": {"num_predict": 2}}
    ok(client.post("/api/chat", json=ollama))


@pytest.mark.parametrize(
    "silent",
    [
        {"content": None},
        {},
        {"content": None, "refusal": "No."},
        {"content": None, "reasoning_content": "hm"},
        {"content": [{"type": "refusal", "refusal": "No."}]},
        {"content": None, "audio": {"id": "a"}},
        {"content": "", "tool_calls": []},
        {"content": []},
    ],
    ids=str,
)
def test_a_turn_of_the_assistant_without_words(client: httpx.Client, silent: dict[str, Any]) -> None:
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", **silent},
        {"role": "user", "content": "b"},
    ]
    ok(client.post("/v1/chat/completions", json={**CHAT, "messages": messages}))
    ok(client.post("/apply-template", json={"messages": messages}))


def test_a_path_may_end_in_a_slash_and_get_may_be_head(client: httpx.Client) -> None:
    ok(client.post("/v1/chat/completions/", json=CHAT))
    ok(client.post("//v1/chat/completions", json=CHAT))
    assert ok(client.get("/v1/models/"))["data"]
    for path in ("/health", "/api/tags", "/api/version", "/v1/models", "/v1/models/tiny", "/metrics", "/"):
        assert client.head(path).status_code == 200
        assert client.head(path).content == b""
    assert client.head("/nowhere").status_code == 404
    assert client.head("/v1/chat/completions").status_code == 405


def compressed(client: httpx.Client, encoding: str, body: bytes) -> httpx.Response:
    headers = {"content-type": "application/json", "content-encoding": encoding}
    return client.post("/v1/chat/completions", content=body, headers=headers)


def test_compressed_bodies(client: httpx.Client) -> None:
    body = json.dumps(CHAT).encode()
    raw = zlib.compressobj(wbits=-15)
    for encoding, packed in {
        "gzip": gzip.compress(body),
        "deflate": zlib.compress(body),
        "Deflate": raw.compress(body) + raw.flush(),
        "identity": body,
    }.items():
        ok(compressed(client, encoding, packed))
    assert "Content-Encoding" in compressed(client, "br", body).json()["error"]["message"]
    assert compressed(client, "br", body).status_code == 415
    assert compressed(client, "gzip, gzip", gzip.compress(gzip.compress(body))).status_code == 415
    assert compressed(client, "gzip", body).status_code == 400
    assert compressed(client, "gzip", gzip.compress(body)[:-9]).status_code == 400
    assert compressed(client, "zstd", b"").status_code in (400, 415)


def test_a_body_that_is_large_once_decompressed_is_refused(client: httpx.Client) -> None:
    bomb = json.dumps({**CHAT, "user": "x" * 20_000_000}).encode()
    response = compressed(client, "gzip", gzip.compress(bomb))
    assert response.status_code == 413
    assert "decompressed" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/octet-stream"]
)
def test_a_body_is_json_whatever_its_type(client: httpx.Client, kind: str) -> None:
    headers = {"content-type": kind} if kind else {}
    for path, body in (
        ("/v1/chat/completions", CHAT),
        ("/v1/messages", MESSAGE),
        ("/tokenize", {"content": "a"}),
    ):
        ok(client.post(path, content=json.dumps(body).encode(), headers=headers))


def test_a_form_of_another_site_is_not_read(client: httpx.Client) -> None:
    body = json.dumps(CHAT).encode()
    form = {"content-type": "text/plain", "sec-fetch-site": "cross-site"}
    assert client.post("/v1/chat/completions", content=body, headers=form).status_code == 415
    form = {"content-type": "text/plain", "origin": "https://evil.example"}
    assert client.post("/v1/chat/completions", content=body, headers=form).status_code == 403


def test_tools_of_the_responses_api_that_are_no_functions(client: httpx.Client) -> None:
    function = {"type": "function", **TOOL["function"]}
    for kind in ("web_search", "file_search", "mcp", "computer", "namespace", "local_shell", "something_new"):
        body = {"input": "once", "max_output_tokens": 4, "tools": [function, {"type": kind, "name": "x"}]}
        response = client.post("/v1/responses", json=body)
        ok(response)
        assert response.headers["x-edgellm-ignored"] == f"tools.1.{kind}"


def test_a_custom_tool_is_called_with_a_text(client: httpx.Client) -> None:
    custom = {"type": "custom", "name": "patch", "format": {"type": "grammar", "definition": "start: /a/"}}
    body = {
        "input": "once",
        "max_output_tokens": 150,
        "temperature": 0,
        "tools": [custom],
        "tool_choice": {"type": "custom", "name": "patch"},
    }
    found = ok(client.post("/v1/responses", json=body))["output"][-1]
    assert (found["type"], found["name"]) == ("custom_tool_call", "patch")
    assert isinstance(found["input"], str)
    events = client.post("/v1/responses", json={**body, "stream": True}).text
    assert "response.custom_tool_call_input.done" in events
    items = [
        {"role": "user", "content": "a"},
        {"type": "custom_tool_call", "call_id": "c", "name": "patch", "input": "x"},
        {"type": "custom_tool_call_output", "call_id": "c", "output": "ok"},
        {"type": "web_search_call", "id": "w", "status": "completed"},
        {"type": "local_shell_call", "id": "l", "action": {}},
        {"type": "compaction_summary", "encrypted_content": "x"},
        {"role": "user", "content": "b"},
    ]
    response = client.post("/v1/responses", json={"input": items, "max_output_tokens": 4})
    ok(response)
    assert (
        response.headers["x-edgellm-ignored"]
        == "input.3.web_search_call, input.4.local_shell_call, input.5.compaction_summary"
    )


@pytest.mark.parametrize(
    "block",
    [
        {
            "type": "document",
            "source": {"type": "text", "media_type": "text/plain", "data": "green"},
            "title": "T",
        },
        {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "green"}]}},
        {"type": "document", "source": {"type": "content", "content": "green"}, "context": "C"},
        {
            "type": "search_result",
            "title": "T",
            "source": "s",
            "content": [{"type": "text", "text": "green"}],
        },
        {"type": "tool_reference", "tool_name": "green"},
        {"type": "text", "text": "green", "cache_control": {"type": "ephemeral"}},
    ],
    ids=lambda block: block["type"],
)
def test_anthropic_s_blocks_that_are_text(client: httpx.Client, block: dict[str, Any]) -> None:
    def count(content: Any) -> int:
        body = {"messages": [{"role": "user", "content": content}]}
        n_tokens = ok(client.post("/v1/messages/count_tokens", json=body))["input_tokens"]
        assert isinstance(n_tokens, int)
        return n_tokens

    assert count([block, {"type": "text", "text": "?"}]) > count([{"type": "text", "text": "?"}])
    result = {"type": "tool_result", "tool_use_id": "t", "content": [block]}
    use = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]},
    ]
    ok(client.post("/v1/messages", json={**MESSAGE, "messages": turns}))


@pytest.mark.parametrize(
    "block",
    [
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
        {"type": "code_execution_tool_result", "tool_use_id": "s", "content": {}},
        {"type": "mcp_tool_use", "id": "m", "name": "x", "server_name": "y", "input": {}},
        {"type": "mcp_tool_result", "tool_use_id": "m", "content": []},
        {"type": "redacted_thinking", "data": "x"},
    ],
    ids=lambda block: block["type"],
)
def test_anthropic_s_blocks_that_are_skipped(client: httpx.Client, block: dict[str, Any]) -> None:
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [block, {"type": "text", "text": "y"}]},
        {"role": "user", "content": "z"},
    ]
    ok(client.post("/v1/messages", json={**MESSAGE, "messages": turns}))
    turns[1]["content"] = [block]
    ok(client.post("/v1/messages", json={**MESSAGE, "messages": turns}))


def test_anthropic_s_server_tools_are_left_out(client: httpx.Client) -> None:
    tools = [{"name": "f", "input_schema": SCHEMA}, {"type": "web_search_20250305", "name": "web_search"}]
    response = client.post("/v1/messages", json={**MESSAGE, "tools": tools})
    ok(response)
    assert response.headers["x-edgellm-ignored"] == "tools.1.web_search_20250305"
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    refused = client.post(
        "/v1/messages", json={**MESSAGE, "messages": [{"role": "user", "content": [image]}]}
    )
    assert refused.status_code == 400


def test_stream_chunks_have_null_usage_when_usage_is_asked_for(client: httpx.Client) -> None:
    for path, body in (
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", {"prompt": "once", "max_tokens": 3}),
    ):
        fields = {**body, "stream": True, "stream_options": {"include_usage": True}}
        lines = client.post(path, json=fields).text.split("\n")
        *chunks, last = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        assert all(chunk["usage"] is None for chunk in chunks)
        assert last["usage"]["total_tokens"]


def test_control_tokens_in_the_prompt_of_a_completion(client: httpx.Client) -> None:
    """The vocabulary's own texts of control tokens become those tokens, and stay text in chats."""

    def pieces(text: str) -> list[dict[str, Any]]:
        found = client.post(
            "/tokenize", json={"content": text, "with_pieces": True, "parse_special": True}
        ).json()
        tokens: list[dict[str, Any]] = found["tokens"]
        return tokens

    control = next(
        (t for t in ("<|im_end|>", "<|endoftext|>", "</s>", "<|end_of_text|>") if len(pieces(t)) == 1), None
    )
    assert control is not None
    prompt = f"once{control}"
    n_tokens = len(pieces(prompt))
    usage = ok(client.post("/v1/completions", json={"prompt": prompt, "max_tokens": 1}))["usage"]
    plain = client.post("/tokenize", json={"content": prompt, "parse_special": False}).json()["tokens"]
    assert usage["prompt_tokens"] <= n_tokens + 1 < len(plain)


def test_a_suffix_needs_a_model_with_tokens_for_it(client: httpx.Client) -> None:
    for path, body in (
        ("/v1/completions", {"prompt": "a", "suffix": "b"}),
        ("/api/generate", {"model": "tiny", "prompt": "a", "suffix": "b"}),
        ("/infill", {"input_prefix": "a", "input_suffix": "b"}),
    ):
        response = client.post(path, json=body)
        assert response.status_code == 400
        assert "fill-in-the-middle" in response.text


@pytest.mark.parametrize("escape", ["\\ud800", "\\udc00\\ud800", "a\\uD83D"])
def test_lone_surrogates_are_replaced_wherever_they_are(client: httpx.Client, escape: str) -> None:
    def post(path: str, text: str) -> httpx.Response:
        return client.post(path, content=text.replace("@", escape).encode())

    for path, text in (
        (
            "/v1/chat/completions",
            '{"messages": [{"role": "user", "content": "@"}], "max_tokens": 2, "stop": "@"}',
        ),
        ("/v1/completions", '{"prompt": "@", "max_tokens": 2, "echo": true, "logprobs": 1, "stream": true}'),
        ("/v1/completions", '{"prompt": "a", "max_tokens": 2, "guided_choice": ["@"]}'),
        ("/v1/embeddings", '{"input": ["@", "b"]}'),
        (
            "/v1/messages",
            '{"messages": [{"role": "user", "content": [{"type": "text", "text": "@"}]}], '
            '"max_tokens": 2, "x": "@"}',
        ),
        (
            "/v1/responses",
            '{"input": "@", "instructions": "@", "metadata": {"@": "@"}, "max_output_tokens": 2}',
        ),
        (
            "/api/chat",
            '{"model": "tiny", "messages": [{"role": "user", "content": "@"}], "options": {"stop": "@"}}',
        ),
        ("/tokenize", '{"content": "@", "with_pieces": true}'),
    ):
        response = post(path, text)
        assert response.status_code == 200, response.text
        assert '"error":{' not in response.text
    for path, text in (
        ("/v1/chat/completions", '{"messages": [{"role": "@", "content": "a"}]}'),
        ("/v1/chat/completions", '{"model": "@", "messages": [{"role": "user", "content": "a"}]}'),
        (
            "/v1/chat/completions",
            '{"messages": [{"role": "user", "content": "a"}], "tools": [{"function": {"name": "@"}}]}',
        ),
        ("/api/show", '{"model": "@"}'),
    ):
        assert post(path, text).status_code in (200, 400, 404)


def test_embeddings_of_many_and_of_empty_texts(client: httpx.Client) -> None:
    found = ok(client.post("/v1/embeddings", json={"input": ["", "once", ""]}))["data"]
    assert found[0]["embedding"] == found[2]["embedding"] != found[1]["embedding"]
    assert len(ok(client.post("/api/embed", json={"model": "tiny", "input": ["", "a"]}))["embeddings"]) == 2
    long = "once upon a time " * 500
    whole = {"model": "tiny", "input": [long], "truncate": False}
    assert client.post("/api/embed", json=whole).status_code == 400
    for truncate in ({}, {"truncate": None}, {"truncate": True}):
        ok(client.post("/api/embed", json={"model": "tiny", "input": [long, "a"], **truncate}))
    assert ok(client.post("/api/embeddings", json={"model": "tiny", "prompt": ""})) == {"embedding": []}


def test_openai_takes_2048_inputs_and_ollama_any_number(client: httpx.Client) -> None:
    for n, status in ((2048, 200), (2049, 400), (0, 400)):
        assert client.post("/v1/embeddings", json={"input": [[1]] * n}).status_code == status
    many = ok(client.post("/api/embed", json={"model": "tiny", "input": ["a"] * 2049}))
    assert len(many["embeddings"]) == 2049
    assert ok(client.post("/api/embed", json={"model": "tiny", "input": []}))["embeddings"] == []


def test_a_long_field_is_not_printed_whole(client: httpx.Client) -> None:
    name = "a" * 70_000
    for body in (
        {**CHAT, "temperature": {name: 1}},
        {**CHAT, "model": name},
        {**CHAT, "messages": [{"role": name, "content": "x"}]},
        {**CHAT, "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": name}}},
        {**CHAT, "response_format": {"type": name}},
        {**CHAT, "chat_template_kwargs": name},
    ):
        response = client.post("/v1/chat/completions", json=body)
        assert response.status_code in (400, 404)
        assert len(response.text) < 3000
    options = {"model": "tiny", "messages": CHAT["messages"], "options": {name: {}, "stop": {name: 1}}}
    assert len(client.post("/api/chat", json=options).text) < 3000


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"model": "\xff\xfe"}', "not UTF-8"),
        (b"[" * 50_000, "nests too deep"),
        (b'{"model": }', "not valid JSON"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat"])
def test_a_body_that_cannot_be_read_says_why(
    client: httpx.Client, path: str, content: bytes, told: str
) -> None:
    response = client.post(path, content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert told in response.text
