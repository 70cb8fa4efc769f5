"""The OpenAPI document: FastAPI describes the requests, the schemas here the answers.

Answers are made by hand, so that they are as the APIs' owners write them; each route names the schema of its.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from edgellm.server.guard import OPEN_PATHS
from edgellm.server.settings import ServerSettings

Schema = dict[str, Any]

SSE, NDJSON, PLAIN, JSON = "text/event-stream", "application/x-ndjson", "text/plain", "application/json"

TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
ANYTHING: Schema = {}
OBJECT: Schema = {"type": "object"}


def record(optional: Mapping[str, Schema] | None = None, **required: Schema) -> Schema:
    """The schema of an object with these members."""
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}


def several(schema: Schema) -> Schema:
    """The schema of a list."""
    return {"type": "array", "items": schema}


def constant(*values: str) -> Schema:
    """The schema of one of some texts."""
    return {"enum": list(values)}


def or_null(schema: Schema) -> Schema:
    """The schema of what may be null."""
    return {"anyOf": [schema, {"type": "null"}]}


def _model(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_CHAT_TOKEN = record(token=TEXT, logprob=NUMBER, bytes=several(COUNT))
_TIMINGS = record(cache_n=COUNT, prompt_n=COUNT, prompt_ms=NUMBER, predicted_n=COUNT, predicted_ms=NUMBER)
_USAGE = record(
    {
        "completion_tokens": COUNT,
        "prompt_tokens_details": record(cached_tokens=COUNT),
        "completion_tokens_details": record(reasoning_tokens=COUNT),
    },
    prompt_tokens=COUNT,
    total_tokens=COUNT,
)
_TOOL_CALL = record(id=TEXT, type=constant("function"), function=record(name=TEXT, arguments=TEXT))
_LISTED = record(
    name=TEXT, model=TEXT, modified_at=TEXT, size=COUNT, digest=TEXT, details=record(format=TEXT, family=TEXT)
)
_OLLAMA_COSTS = {
    "total_duration": COUNT,
    "load_duration": COUNT,
    "prompt_eval_count": COUNT,
    "prompt_eval_duration": COUNT,
    "eval_count": COUNT,
    "eval_duration": COUNT,
}
_OLLAMA_TOKEN = record(token=TEXT, logprob=NUMBER, top_logprobs=several(_CHAT_TOKEN))
_OLLAMA_ENDS = {
    **_OLLAMA_COSTS,
    "done_reason": constant("stop", "length", "load", "unload"),
    "logprobs": several(_OLLAMA_TOKEN),
}

SCHEMAS: dict[str, Schema] = {
    "Error": record(error=record(message=TEXT, type=TEXT, param=or_null(TEXT), code=or_null(TEXT))),
    "AnthropicError": record(type=constant("error"), error=record(type=TEXT, message=TEXT)),
    "OllamaError": record(error=TEXT),
    "ChatCompletion": record(
        id=TEXT,
        object=constant("chat.completion"),
        created=COUNT,
        model=TEXT,
        choices=several(
            record(
                index=COUNT,
                message=record(
                    {"reasoning_content": TEXT, "tool_calls": several(_TOOL_CALL)},
                    role=constant("assistant"),
                    content=or_null(TEXT),
                ),
                logprobs=or_null(record(content=several(_CHAT_TOKEN))),
                finish_reason=constant("stop", "length", "tool_calls"),
            )
        ),
        usage=_USAGE,
        timings=_TIMINGS,
    ),
    "Completion": record(
        id=TEXT,
        object=constant("text_completion"),
        created=COUNT,
        model=TEXT,
        choices=several(
            record(
                index=COUNT,
                text=TEXT,
                logprobs=or_null(record(tokens=several(TEXT), token_logprobs=several(NUMBER))),
                finish_reason=constant("stop", "length"),
            )
        ),
        usage=_USAGE,
        timings=_TIMINGS,
    ),
    "Embeddings": record(
        object=constant("list"),
        model=TEXT,
        data=several(
            record(object=constant("embedding"), index=COUNT, embedding={"anyOf": [several(NUMBER), TEXT]})
        ),
        usage=_USAGE,
    ),
    "Ranking": {
        "anyOf": [
            record(
                id=TEXT,
                object=constant("list"),
                model=TEXT,
                results=several(record({"document": record(text=TEXT)}, index=COUNT, relevance_score=NUMBER)),
                usage=_USAGE,
            ),
            several(record({"text": TEXT}, index=COUNT, score=NUMBER)),
        ]
    },
    "Scores": record(
        id=TEXT,
        object=constant("list"),
        created=COUNT,
        model=TEXT,
        data=several(record(index=COUNT, object=constant("score"), score=NUMBER)),
        usage=_USAGE,
    ),
    "Model": record(
        {"parent": TEXT}, id=TEXT, object=constant("model"), created={"type": "integer"}, owned_by=TEXT
    ),
    "Models": record(object=constant("list"), data=several(_model("Model"))),
    "Response": record(
        id=TEXT,
        object=constant("response"),
        created_at=COUNT,
        status=constant("completed", "incomplete"),
        model=TEXT,
        output=several(
            {
                "anyOf": [
                    record(type=constant("message"), id=TEXT, role=TEXT, content=several(OBJECT)),
                    record(type=constant("reasoning"), id=TEXT, content=several(OBJECT)),
                    record(type=constant("function_call"), id=TEXT, call_id=TEXT, name=TEXT, arguments=TEXT),
                ]
            }
        ),
        error={"type": "null"},
        usage=record(input_tokens=COUNT, output_tokens=COUNT, total_tokens=COUNT),
        timings=_TIMINGS,
    ),
    "Message": record(
        id=TEXT,
        type=constant("message"),
        role=constant("assistant"),
        model=TEXT,
        content=several(
            {
                "anyOf": [
                    record(type=constant("text"), text=TEXT),
                    record(type=constant("thinking"), thinking=TEXT, signature=TEXT),
                    record(type=constant("tool_use"), id=TEXT, name=TEXT, input=OBJECT),
                ]
            }
        ),
        stop_reason=constant(
            *("end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded")
        ),
        stop_sequence=or_null(TEXT),
        usage=record(input_tokens=COUNT, cache_read_input_tokens=COUNT, output_tokens=COUNT),
    ),
    "TokenCount": record(input_tokens=COUNT),
    "OllamaChat": record(
        _OLLAMA_ENDS,
        model=TEXT,
        created_at=TEXT,
        done=FLAG,
        message=record(
            {
                "thinking": TEXT,
                "tool_calls": several(record(function=record(name=TEXT, arguments=OBJECT))),
            },
            role=constant("assistant"),
            content=TEXT,
        ),
    ),
    "OllamaGenerate": record(
        {**_OLLAMA_ENDS, "thinking": TEXT}, model=TEXT, created_at=TEXT, done=FLAG, response=TEXT
    ),
    "OllamaEmbeddings": record(_OLLAMA_ENDS, model=TEXT, embeddings=several(several(NUMBER))),
    "OllamaEmbedding": record(embedding=several(NUMBER)),
    "OllamaModels": record(models=several(_LISTED)),
    "OllamaRunning": record(
        models=several({"allOf": [_LISTED, record(context_length=COUNT, size_vram=COUNT, expires_at=TEXT)]})
    ),
    "OllamaStatus": record({"error": TEXT, "total": COUNT, "completed": COUNT}, status=TEXT),
    "OllamaModel": record(
        parameters=TEXT,
        template=TEXT,
        details=record(format=TEXT, family=TEXT),
        model_info=OBJECT,
        capabilities=several(TEXT),
        modified_at=TEXT,
    ),
    "Chats": record(
        object=constant("list"), data=several(record({"deleted": FLAG}, id=TEXT, changed={"type": "integer"}))
    ),
    "Chat": record(id=TEXT, title=TEXT, changed={"type": "integer"}, messages=several(OBJECT)),
    "Kept": record(id=TEXT, changed={"type": "integer"}),
    "Stopped": record(id=TEXT, object=constant("answer.stopped")),
    "Version": record(version=TEXT),
    "Health": record(status=constant("ok", "loading")),
    "Properties": record(
        model=TEXT,
        state=TEXT,
        n_ctx=COUNT,
        n_vocab=COUNT,
        threads=COUNT,
        memory_bytes=OBJECT,
        default_generation_settings=OBJECT,
        chat_template=TEXT,
        build_info=TEXT,
        keeps_chats=FLAG,
    ),
    "Adapters": several(record(id=COUNT, name=TEXT, path=TEXT, scale=NUMBER)),
    "Tokens": record(tokens={"anyOf": [several(COUNT), several(record(id=COUNT, piece=TEXT))]}),
    "Content": record(content=TEXT),
    "Infill": record(
        content=TEXT, stop=FLAG, tokens_evaluated=COUNT, tokens_predicted=COUNT, timings=_TIMINGS
    ),
    "Prompt": record(prompt=TEXT),
}


def answers(
    name: str | None = None, streamed: str | None = None, *, error: str = "Error", waits: bool = False
) -> dict[int | str, Schema]:
    """The `responses` of a route: the schema of its answer (None: plain text), and how it is streamed.

    error: the schema of its errors. waits: 503 has the answer's schema.
    """
    content: Schema = {PLAIN: {"schema": TEXT}} if name is None else {JSON: {"schema": _model(name)}}
    if streamed == SSE:
        content[SSE] = {"schema": TEXT}
    elif streamed is not None and name is not None:
        content[streamed] = {"schema": _model(name)}
    failed = {JSON: {"schema": _model(error)}}
    later = {"Retry-After": {"schema": TEXT}}
    return {
        "200": {"description": "The answer.", "content": content},
        "4XX": {"description": "The fault of the request.", "content": failed},
        "503": {
            "description": "Too much to do; try again.",
            "headers": later,
            "content": content if waits else failed,
        },
    }


def describe(app: FastAPI, settings: ServerSettings) -> Schema:
    """The document of an application: its requests, its answers, its errors, and the key that it asks for."""
    found = get_openapi(title=app.title, version=app.version, routes=app.routes)
    schemas = found["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas.update(SCHEMAS)
    for path, operations in found["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            if settings.api_keys and path not in OPEN_PATHS:
                operation["security"] = [{"bearer": []}, {"key": []}]
    if settings.api_keys:
        found["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        }
    return found
