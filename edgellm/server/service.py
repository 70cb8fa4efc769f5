"""What every API needs: the models, the limits, the counters, and options out of a request's fields."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import Depends, Request
from fastapi.responses import JSONResponse, Response
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from edgellm.chat.tools import Tool, ToolChoice
from edgellm.engine.model import Model
from edgellm.engine.options import GenerateOptions
from edgellm.engine.request import Stats
from edgellm.engine.sampling_params import DEFAULTS
from edgellm.errors import UnsupportedError, UsageError
from edgellm.server.answers import Job
from edgellm.server.conversation import Conversation, prepare
from edgellm.server.errors import RequestError
from edgellm.server.metrics import Metrics
from edgellm.server.models import ModelManager, Served
from edgellm.server.settings import ServerSettings
from edgellm.server.sse import Stream, unless_gone

IGNORED_HEADER = "X-Edgellm-Ignored"
_NAME = re.compile(r"[A-Za-z0-9_.$-]{1,64}")


class Body(BaseModel):
    """A request's fields; unknown ones are ignored and named in a header of the answer."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    def unread(self) -> list[str]:
        """The names of the fields nobody reads."""
        return list(self.model_extra or {})

    def ignored(self) -> dict[str, str]:
        """The header that names the fields nobody reads."""
        # Of names that a header cannot hold nothing is said.
        names = [name for name in sorted(self.unread()) if _NAME.fullmatch(name)]
        return {IGNORED_HEADER: ", ".join(names[:32])} if names else {}


class AdapterScale(Body):
    """An adapter by its number or name, and its scale; as llama.cpp's server has it."""

    id: int | str
    scale: float = 1.0


class SamplingFields(Body):
    """The sampling fields that all APIs share; None is the model's own choice.

    lora: the adapters of the answer; those not named are not used.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    penalty_last_n: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    logit_bias: dict[str, float] | None = None
    ignore_eos: bool = False
    lora: list[AdapterScale] | None = None

    def options(self, *, max_tokens: int | None, logprobs: int | None = None) -> GenerateOptions:
        """Generation options; UsageError for a value out of range."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return GenerateOptions(
            max_tokens=max_tokens,
            seed=None if self.seed is None or self.seed < 0 else self.seed,
            stop=tuple(stop),
            logit_bias=_biases(self.logit_bias or {}),
            logprobs=logprobs,
            ignore_eos=self.ignore_eos,
            lora=None if self.lora is None else {one.id: one.scale for one in self.lora},
            **{name: getattr(self, name) for name in DEFAULTS},
        )


@dataclass(slots=True)
class Service:
    """What the routes work with."""

    settings: ServerSettings
    models: ModelManager
    metrics: Metrics = field(default_factory=Metrics)

    def start(
        self,
        loaded: Served,
        prompts: Sequence[Sequence[int]],
        options: GenerateOptions,
        *,
        n: int = 1,
        shown: frozenset[int] = frozenset(),
    ) -> Job:
        """Start n answers to each prompt, within the limits; RequestError names one that is exceeded."""
        limits = self.settings.limits
        if not 1 <= n <= limits.choices:
            raise RequestError(400, f"n is {n}; it must be between 1 and {limits.choices}.", param="n")
        if not 1 <= len(prompts) <= limits.inputs:
            raise RequestError(400, f"There are {len(prompts)} prompts; 1 to {limits.inputs} are accepted.")
        allowed, asked = limits.output_tokens, options.max_tokens
        if allowed is not None:
            if asked is not None and asked > allowed:
                raise RequestError(
                    400, f"{asked} tokens were asked for; at most {allowed} are given.", param="max_tokens"
                )
            options = replace(options, max_tokens=allowed if asked is None else asked)
        return Job(loaded, prompts, options, self.metrics, n=n, shown=shown)

    async def respond(
        self,
        request: Request,
        job: Job,
        body: Body,
        *,
        whole: Callable[[], Mapping[str, Any]],
        chunks: AsyncIterator[bytes] | None,
        media_type: str = "text/event-stream",
        ping: bytes = b": ping\n\n",
    ) -> Response:
        """The stream of `chunks`, or without any the `whole` once the job is done; the job ends with it."""
        headers = body.ignored()
        if chunks is not None:
            return Stream(
                chunks,
                self.settings.limits,
                on_end=job.end,
                media_type=media_type,
                ping=ping,
                headers=headers,
            )
        try:
            await unless_gone(request, job.collect())
            return JSONResponse(whole(), headers=headers)
        finally:
            job.end()

    async def embed(
        self, loaded: Served, texts: Sequence[Sequence[int]], dimensions: int | None = None
    ) -> NDArray[np.float32]:
        """Embeddings (n_texts, width) of tokenized texts, computed between the steps of other requests.

        dimensions: only so many of the first values, scaled to length 1 again.
        """
        if not 1 <= len(texts) <= self.settings.limits.inputs:
            raise RequestError(
                400,
                f"There are {len(texts)} inputs; 1 to {self.settings.limits.inputs} are accepted.",
                param="input",
            )
        rows = []
        for ids in texts:
            work = partial(loaded.model.embed_ids, ids, lora=loaded.lora)
            rows.append(await asyncio.wrap_future(loaded.runner.call(work)))
        vectors = np.stack(rows)
        if dimensions is not None:
            if not 1 <= dimensions <= vectors.shape[1]:
                raise RequestError(
                    400, f"dimensions must be between 1 and {vectors.shape[1]}.", param="dimensions"
                )
            vectors = vectors[:, :dimensions]
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors

    async def conversation(
        self,
        model: Model,
        messages: Sequence[Mapping[str, Any]],
        options: GenerateOptions,
        *,
        tools: Sequence[Tool] = (),
        choice: ToolChoice | None = None,
        variables: Mapping[str, Any] | None = None,
        prefill: bool = False,
    ) -> Conversation:
        """A conversation rendered, the grammar of its answers compiled, and how to take them apart.

        choice: None if no tool may be called. prefill: a last message of the assistant is the beginning of
        the answer, which goes on from there. RequestError for content that is not text.
        """
        begun = ""
        if prefill and len(messages) > 1 and (last := messages[-1]).get("role") == "assistant":
            content = last.get("content")
            if isinstance(content, str) and not last.get("tool_calls"):
                messages, begun = messages[:-1], content
        work = partial(
            prepare,
            model,
            messages,
            options,
            tools=tools,
            choice=choice,
            variables=template_variables(variables),
            begun=begun,
        )
        try:
            return await asyncio.to_thread(work)
        except UnsupportedError as error:
            raise RequestError(400, str(error), param="messages") from None


def get_service(request: Request) -> Service:
    """The service of the app that a request came to."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


ServiceOf = Annotated[Service, Depends(get_service)]


def template_variables(given: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """What a template is told besides the messages; RequestError for what requests say in other fields."""
    taken = {"self", "messages", "tools", "add_generation_prompt"} & set(given or {})
    if taken:
        name = min(taken)
        raise RequestError(
            400, f"chat_template_kwargs cannot set {name}.", param=f"chat_template_kwargs.{name}"
        )
    return given or {}


def tool_choice(
    tools: Sequence[Any] | None,
    mode: Literal["none", "auto", "required"],
    name: str | None = None,
    *,
    parallel: bool | None = None,
) -> ToolChoice | None:
    """Which tools may be called, or None if none may. name: the one that has to be, and once."""
    if not tools:
        if mode == "required":
            raise RequestError(400, "tool_choice asks for a call and there are no tools.", param="tools")
        return None
    if mode == "none":
        return None
    return ToolChoice(mode, name, parallel=parallel is not False and name is None)


async def tokenized(model: Model, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts with the model's special tokens around each; long ones take a while."""
    encode = partial(model.tokenizer.encode, add_special=True)
    return await asyncio.to_thread(lambda: [encode(text) for text in texts])


def timings(stats: Stats) -> dict[str, float]:
    """What a request cost, as llama.cpp's server writes it: counts, milliseconds, tokens per second."""
    computed = stats.n_prompt - stats.n_cached
    return {
        "cache_n": stats.n_cached,
        "prompt_n": computed,
        "prompt_ms": stats.prompt_s * 1e3,
        "prompt_per_token_ms": stats.prompt_s * 1e3 / computed if computed else 0.0,
        "prompt_per_second": stats.prompt_tok_s,
        "predicted_n": stats.n_generated,
        "predicted_ms": stats.generate_s * 1e3,
        "predicted_per_token_ms": stats.generate_s * 1e3 / max(1, stats.n_generated),
        "predicted_per_second": stats.generate_tok_s,
        "draft_n": stats.n_drafted,
        "draft_n_accepted": stats.n_accepted,
        "queue_ms": stats.queue_s * 1e3,
    }


def _biases(given: Mapping[str, float]) -> dict[int, float]:
    try:
        return {int(token): bias for token, bias in given.items()}
    except ValueError:
        raise UsageError("logit_bias must map token ids to numbers.") from None
