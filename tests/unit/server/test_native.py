"""edgellm's own endpoints, and the server's facts about itself."""

from __future__ import annotations

import re

import httpx

from tests.support.http_server import Running


def test_health_and_properties(client: httpx.Client) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    props = client.get("/props").json()
    assert (props["model"], props["n_ctx"]) == ("tiny", 192)
    assert props["memory_bytes"]["weights"] > 0


def test_tokens_there_and_back(client: httpx.Client) -> None:
    tokens = client.post("/tokenize", json={"content": "once upon a time"}).json()["tokens"]
    assert client.post("/detokenize", json={"tokens": tokens}).json() == {"content": "once upon a time"}
    pieces = client.post("/tokenize", json={"content": "once upon", "with_pieces": True}).json()["tokens"]
    assert "".join(piece["piece"] for piece in pieces) == "once upon"
    refused = client.post("/detokenize", json={"tokens": [10**9]})
    assert refused.status_code == 400


def test_the_template_is_applied(client: httpx.Client) -> None:
    prompt = client.post("/apply-template", json={"messages": [{"role": "user", "content": "hi"}]}).json()
    assert "hi" in prompt["prompt"]
    bare = client.post(
        "/apply-template",
        json={"messages": [{"role": "user", "content": "hi"}], "add_generation_prompt": False},
    ).json()
    assert prompt["prompt"].startswith(bare["prompt"])
    assert len(prompt["prompt"]) > len(bare["prompt"])


def test_what_a_template_cannot_render_is_refused(client: httpx.Client) -> None:
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]
    refused = client.post("/apply-template", json={"messages": image})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "messages")
    assert "image_url" in refused.json()["error"]["message"]
    plain = [{"role": "user", "content": "hi"}]
    for name in ("messages", "self", "tools"):
        for path in ("/apply-template", "/v1/chat/completions"):
            body = {"messages": plain, "chat_template_kwargs": {name: []}}
            refused = client.post(path, json=body)
            assert refused.status_code == 400
            assert refused.json()["error"]["param"] == f"chat_template_kwargs.{name}"


def test_metrics_count_tokens_and_are_well_formed(client: httpx.Client) -> None:
    def counters() -> dict[str, float]:
        text = client.get("/metrics").text
        names = set(re.findall(r"^# TYPE (\S+) (?:counter|gauge)$", text, re.MULTILINE))
        found = {}
        for line in text.splitlines():
            if not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                assert name.partition("{")[0] in names
                found[name] = float(value)
        return found

    before = counters()
    client.post("/v1/completions", json={"prompt": "once", "max_tokens": 3, "ignore_eos": True})
    after = counters()
    assert after["edgellm_tokens_predicted_total"] - before["edgellm_tokens_predicted_total"] == 3
    length = 'edgellm_requests_total{reason="length"}'
    assert after[length] - before[length] == 1
    assert after["edgellm_models_loaded"] == 1


def test_what_is_not_there_is_said_in_the_api_s_own_shape(server: Running, client: httpx.Client) -> None:
    missing = client.get("/v1/nothing")
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")
    assert client.put("/v1/chat/completions").status_code == 405
    assert isinstance(client.get("/api/nothing").json()["error"], str)
    assert client.get("/v1/messages/nothing").json()["type"] == "error"


def test_the_description_names_every_endpoint(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) >= {
        *(f"/v1/{name}" for name in ("chat/completions", "completions", "responses", "embeddings", "models")),
        *(f"/v1/{name}" for name in ("messages", "messages/count_tokens")),
        *(f"/api/{name}" for name in ("chat", "generate", "embed", "tags", "show", "ps", "version")),
        *("/health", "/metrics", "/props", "/lora-adapters", "/tokenize", "/detokenize", "/apply-template"),
    }
