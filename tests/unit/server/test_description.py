"""The OpenAPI document is true: the answer to any request is one of those that it describes.

Bodies are drawn from the document itself: a request that works, with members taken from the schema or from
anywhere. `EDGELLM_EXAMPLES` is the number for each endpoint.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgellm.server.app import create_app
from edgellm.server.chat_folder import chat_folder
from edgellm.server.models import ModelManager
from edgellm.server.settings import Limits, ServerSettings
from tests.support.http_server import running, until_idle
from tests.support.json_values import ANY, TEXTS, values_of
from tests.unit.server.conftest import OPTIONS

N_EXAMPLES = int(os.environ.get("EDGELLM_EXAMPLES", "60"))
MESSAGES = [{"role": "user", "content": "once"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}

READABLE = ["/v1/models", "/v1/models/{name}", "/api/tags", "/api/ps", "/api/version", "/health", "/metrics"]
READABLE += ["/props", "/lora-adapters"]
# A request to each endpoint that works.
WORKING: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES, "tools": [TOOL], "logprobs": True, "top_logprobs": 2},
    "/v1/completions": {"prompt": "once", "logprobs": 1},
    "/v1/embeddings": {"input": ["once", "upon"]},
    "/v1/responses": {"input": "once", "tools": [{"type": "function", "name": "f", "parameters": SCHEMA}]},
    "/v1/messages": {
        "messages": MESSAGES,
        "max_tokens": 4,
        "tools": [{"name": "f", "input_schema": SCHEMA}],
    },
    "/v1/messages/count_tokens": {"messages": MESSAGES},
    "/api/chat": {"model": "tiny", "messages": MESSAGES, "stream": False, "tools": [TOOL]},
    "/api/generate": {"model": "tiny", "prompt": "once", "options": {"num_predict": 3}},
    "/api/embed": {"model": "tiny", "input": "once"},
    "/api/embeddings": {"model": "tiny", "prompt": "once"},
    "/api/show": {"model": "tiny"},
    "/tokenize": {"content": "once"},
    "/detokenize": {"tokens": [1, 2]},
    "/apply-template": {"messages": MESSAGES},
}

# Requests that this model cannot serve: it has no tokens or no head for them.
REFUSED: dict[str, dict[str, Any]] = {
    "/infill": {"input_prefix": "once", "input_suffix": "time"},
    "/v1/rerank": {"query": "once", "documents": ["upon"]},
    "/v1/score": {"text_1": "once", "text_2": "upon"},
}
# Endpoints that answer 403 unless the owner allows them.
FORBIDDEN = {"/api/pull": "post", "/api/delete": "delete"}
KEPT = "/v1/answers/{answer_id}"
CHATS = {"/v1/chats": {"get"}, "/v1/chats/{chat_id}": {"get", "put", "delete"}}


@pytest.fixture(scope="module")
def document(tiny_model: Path) -> dict[str, Any]:
    return create_app(ServerSettings(), ModelManager([("tiny", tiny_model)], OPTIONS)).openapi()


@pytest.fixture(scope="module")
def client(tiny_model: Path) -> Iterator[httpx.Client]:
    limits = Limits(output_tokens=16, inputs=4, choices=2)
    options = replace(OPTIONS, backend="native", threads=1, context=512)
    with (
        running([("tiny", tiny_model)], options, ServerSettings(port=0, limits=limits)) as server,
        server.client() as opened,
    ):
        yield opened
        until_idle(server)


def check(document: dict[str, Any], method: str, path: str, response: httpx.Response) -> None:
    """The status, the media type and the body are as the document says."""
    status = str(response.status_code)
    documented = document["paths"][path][method]["responses"]
    found = documented.get(status) or documented.get(f"{status[0]}XX")
    assert found is not None, f"{status} is not documented: {response.text}"
    media = response.headers["content-type"].partition(";")[0]
    assert media in found["content"]
    schema = {**found["content"][media]["schema"], "components": document["components"]}
    validate = partial(jsonschema.validate, schema=schema, cls=jsonschema.Draft202012Validator)
    match media:
        case "application/json":
            validate(json.loads(response.text, parse_constant=_refused))
        case "application/x-ndjson":
            *lines, last = [json.loads(line) for line in response.text.splitlines()]
            assert "error" not in last, last
            assert last["done"]
            for line in [*lines, last]:
                validate(line)
        case "text/event-stream":
            _check_events(path, response.text)


def _check_events(path: str, text: str) -> None:
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    events = [block.partition("data: ")[2] for block in blocks]
    if path.endswith("completions") or path == KEPT:
        assert events.pop() == "[DONE]"
    values = [json.loads(event, parse_constant=_refused) for event in events]
    assert values
    assert not any("error" in value and value["error"] for value in values)
    last = {"/v1/messages": "message_stop", "/v1/responses": "response."}.get(path)
    assert last is None or values[-1]["type"].startswith(last)


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def send(client: httpx.Client, path: str, body: Any) -> httpx.Response:
    """JSON as Python writes it, so that lone surrogates and huge numbers get through."""
    headers = {"content-type": "application/json"}
    return client.post(path, content=json.dumps(body).encode(), headers=headers)


def test_every_endpoint_is_described(document: dict[str, Any]) -> None:
    assert set(document["paths"]) == {*READABLE, *WORKING, *REFUSED, *FORBIDDEN, *CHATS, KEPT}
    posts = {path for path, operations in document["paths"].items() if "post" in operations}
    assert posts == {*WORKING, *REFUSED, "/api/pull"}
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    assert "422" not in json.dumps(document)


def test_the_key_is_described_where_one_is_asked_for(tiny_model: Path, document: dict[str, Any]) -> None:
    assert "securitySchemes" not in document["components"]
    manager = ModelManager([("tiny", tiny_model)], OPTIONS)
    secured = create_app(ServerSettings(api_keys=("k",)), manager).openapi()
    assert set(secured["components"]["securitySchemes"]) == {"bearer", "key"}
    assert secured["paths"]["/v1/models"]["get"]["security"]
    assert "security" not in secured["paths"]["/health"]["get"]


@pytest.mark.parametrize("path", READABLE)
def test_what_is_read_is_as_described(client: httpx.Client, document: dict[str, Any], path: str) -> None:
    response = client.get(path.replace("{name}", "tiny"))
    assert response.status_code == 200
    check(document, "get", path, response)


@pytest.mark.parametrize("path", sorted(WORKING))
def test_what_works_is_as_described(client: httpx.Client, document: dict[str, Any], path: str) -> None:
    for stream in (False, True):
        response = send(client, path, {**WORKING[path], "stream": stream})
        assert response.status_code == 200, response.text
        check(document, "post", path, response)


@pytest.mark.parametrize("path", sorted(FORBIDDEN))
def test_what_the_owner_must_allow_is_forbidden(
    client: httpx.Client, document: dict[str, Any], path: str
) -> None:
    response = client.request(FORBIDDEN[path], path, json={"model": "tiny"})
    assert response.status_code == 403
    check(document, FORBIDDEN[path], path, response)


def test_conversations_are_as_described(
    tiny_model: Path, document: dict[str, Any], client: httpx.Client, tmp_path: Path
) -> None:
    path, chat = "/v1/chats/{chat_id}", {"title": "a", "changed": 1, "messages": [MESSAGES[0]]}
    keeping = ServerSettings(port=0, chats=chat_folder(tmp_path))
    with running([("tiny", tiny_model)], OPTIONS, keeping) as server, server.client() as kept:
        for asked, status in ((client, 404), (kept, 200)):
            for method, where, json_body in (
                ("put", path, chat),
                ("get", path, None),
                ("get", "/v1/chats", None),
                ("delete", path, None),
            ):
                url = where.replace("{chat_id}", "abc")
                response = asked.request(method, url, json=json_body, params={"changed": 2})
                assert response.status_code == status
                check(document, method, where, response)


def test_a_kept_answer_is_as_described(client: httpx.Client, document: dict[str, Any]) -> None:
    path = KEPT.replace("{answer_id}", "0123456789abcdef")
    for method in ("get", "delete"):
        check(document, method, KEPT, client.request(method, path))
    chat = "/v1/chat/completions"
    send(client, chat, {**WORKING[chat], "stream": True, "answer_id": path.rpartition("/")[2]})
    for method in ("get", "delete"):
        response = client.request(method, path)
        assert response.status_code == 200
        check(document, method, KEPT, response)


@pytest.mark.parametrize("path", sorted(REFUSED))
def test_what_this_model_cannot_do_is_a_fault_of_the_request(
    client: httpx.Client, document: dict[str, Any], path: str
) -> None:
    response = send(client, path, REFUSED[path])
    assert response.status_code == 400, response.text
    check(document, "post", path, response)


@pytest.mark.parametrize("path", sorted({*WORKING, *REFUSED}))
def test_whatever_is_sent_the_answer_is_as_described(
    client: httpx.Client, document: dict[str, Any], path: str
) -> None:
    body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    schema = document["components"]["schemas"][body["$ref"].rpartition("/")[2]]
    members = {name: values_of(one, document) for name, one in schema["properties"].items()}
    mutated = st.fixed_dictionaries({}, optional={name: one | ANY for name, one in members.items()})
    likely = st.fixed_dictionaries({}, optional={n: one for n, one in members.items() if n != "model"})
    drawn = st.one_of(likely, mutated, st.dictionaries(TEXTS, ANY, max_size=3))

    @settings(
        max_examples=N_EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(drawn, st.integers(0, 2))
    def run(changes: dict[str, Any], n_kept: int) -> None:
        kept = dict(list(changes.items())[: n_kept or None])
        check(document, "post", path, send(client, path, {**(WORKING | REFUSED)[path], **kept}))

    run()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat"])
def test_bodies_that_are_no_objects(client: httpx.Client, document: dict[str, Any], path: str) -> None:
    deep = b"[" * 50_000
    for content in (
        b"",
        b"null",
        b"[]",
        b"1",
        b"{",
        b'"\\ud800"',
        b"\xff\xfe",
        b"NaN",
        deep,
        b'{"a":' * 50_000,
    ):
        response = client.post(path, content=content, headers={"content-type": "application/json"})
        assert response.status_code == 400, response.text
        check(document, "post", path, response)
