"""Loads a server with streaming clients: tokens per second of all together, and the time to each first token.

    edgellm serve model.gguf &
    python bench/serve_load.py --clients 16 --prompt-tokens 100 --max-tokens 128
    python bench/serve_load.py --shared 1500

First one client alone, then all at once, each with a prompt of its own. Every answer is compared with the
same request alone. `--shared N` instead sends three prompts that begin with the same N tokens: the first one
cold, unless the server knows them already (`--cache-dir`, a restart, and `--tag`).

Prompts are parts of a text, of exact lengths in the server's tokens. Speculative decoding helps one client
more than many; `edgellm serve --draft-max 0` measures the sharing of steps alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TEXT = Path(__file__).resolve().parent.parent / "tests/data/text/english.txt"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: seconds to its first token and in all, its text, and the server's counters."""

    first_s: float
    total_s: float
    text: str
    n_prompt: int
    n_cached: int
    n_generated: int


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of answers that ran at the same time."""

    clients: int
    tok_s: float
    first_p50_s: float
    first_p95_s: float
    n_generated: int


class Target:
    """A server's address, and plain connections to it: a client library takes more time than the server."""

    def __init__(self, url: str, api_key: str | None) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 80
        self._headers = f"Host: {parts.netloc}\r\nConnection: close\r\n"
        if api_key:
            self._headers += f"Authorization: Bearer {api_key}\r\n"

    async def lines(self, path: str, body: dict[str, Any] | None = None) -> AsyncIterator[bytes]:
        """The lines of an answer as they come, headers and chunk sizes included; RuntimeError if refused."""
        reader, writer = await asyncio.open_connection(self.host, self.port, limit=1 << 24)
        try:
            content = b"" if body is None else json.dumps(body).encode()
            method = "GET" if body is None else "POST"
            sizes = f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
            writer.write(f"{method} {path} HTTP/1.1\r\n{self._headers}{sizes}\r\n".encode() + content)
            status = await reader.readline()
            if b" 200 " not in status:
                raise RuntimeError((status + await reader.read()).decode("utf-8", "replace"))
            while line := await reader.readline():
                yield line
        finally:
            writer.close()


async def ask(target: Target, body: dict[str, Any]) -> Answer:
    """Stream one answer; RuntimeError if the server refuses or fails."""
    begin = time.perf_counter()
    first_s = 0.0
    lines = []
    streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
    async for line in target.lines("/v1/completions", streamed):
        if line.startswith(b"data: {"):
            first_s = first_s or time.perf_counter() - begin
            lines.append(line)
    total_s = time.perf_counter() - begin
    chunks = [json.loads(line.removeprefix(b"data: ")) for line in lines]
    if failed := [chunk["error"]["message"] for chunk in chunks if "error" in chunk]:
        raise RuntimeError(failed[0])
    text = "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])
    usage = chunks[-1]["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return Answer(first_s, total_s, text, usage["prompt_tokens"], cached, usage["completion_tokens"])


async def first_model(target: Target) -> str:
    """The name of the first model that the server offers."""
    async for line in target.lines("/v1/models"):
        if line.startswith(b"{"):
            return str(json.loads(line)["data"][0]["id"])
    raise RuntimeError("the server offers no models")


async def tokens_of(target: Target, model: str, text: str) -> list[int]:
    """Token ids of a text, by the server."""
    body = {"model": model, "content": text, "parse_special": False}
    found = [line async for line in target.lines("/tokenize", body) if line.startswith(b"{")]
    return list(json.loads(found[0])["tokens"])


def prompt(tokens: Sequence[int], tag: str, n_tokens: int) -> list[int]:
    """A part of the text at a position that depends on the tag; ValueError if it is too short."""
    place = random.Random(tag).randrange(len(tokens) - n_tokens)
    return list(tokens[place : place + n_tokens])


def figures(answers: Sequence[Answer], seconds: float) -> Figures:
    """Figures of `answers`, which together took `seconds`."""
    firsts = sorted(answer.first_s for answer in answers)
    n_generated = sum(answer.n_generated for answer in answers)
    return Figures(
        len(answers),
        n_generated / seconds,
        statistics.median(firsts),
        firsts[min(len(firsts) - 1, round(0.95 * len(firsts)))],
        n_generated,
    )


async def together(target: Target, bodies: Sequence[dict[str, Any]]) -> tuple[list[Answer], float]:
    """All answers, and the seconds until the last one ended."""
    begin = time.perf_counter()
    answers = await asyncio.gather(*(ask(target, body) for body in bodies))
    return list(answers), time.perf_counter() - begin


async def measure_load(
    target: Target, tokens: Sequence[int], arguments: argparse.Namespace
) -> dict[str, Any]:
    """One client, all clients, and each of their requests alone."""

    def bodies(run: int) -> list[dict[str, Any]]:
        return [
            {
                "model": arguments.model,
                "prompt": prompt(tokens, f"{arguments.tag} {run} {number}", arguments.prompt_tokens),
                "max_tokens": arguments.max_tokens,
                "ignore_eos": True,
                # Half of them are greedy, half are sampled with a seed.
                **({"temperature": 0} if number % 2 else {"temperature": 1, "seed": number}),
            }
            for number in range(arguments.clients)
        ]

    await ask(target, bodies(-1)[0])
    one, all_, n_different = [], [], 0
    for run in range(arguments.runs):
        asked = bodies(run)
        answers, seconds = await together(target, asked)
        all_.append(figures(answers, seconds))
        alone = [await ask(target, body) for body in asked]
        n_different += sum(a.text != b.text for a, b in zip(answers, alone, strict=True))
        # One client, three times, with prompts that are not in the prefix cache.
        for number in range(3):
            part = prompt(tokens, f"{arguments.tag} one {run} {number}", arguments.prompt_tokens)
            answers, seconds = await together(target, [{**asked[number % len(asked)], "prompt": part}])
            one.append(figures(answers, seconds))
    ratio = _middle(all_).tok_s / _middle(one).tok_s
    return {
        "one": asdict(_middle(one)),
        "all": asdict(_middle(all_)),
        "ratio": ratio,
        "answers_that_differ": n_different,
    }


async def measure_shared(
    target: Target, tokens: Sequence[int], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Prompts that begin with the same tokens, one after another."""
    shared = prompt(tokens, f"{arguments.tag} shared", arguments.shared)
    answers = []
    for number in range(3):
        tail = prompt(tokens, f"{arguments.tag} tail {number} {time.time_ns()}", 12)
        body = {"model": arguments.model, "prompt": [*shared, *tail], "max_tokens": 4, "temperature": 0}
        answers.append(await ask(target, body))
    return {
        "first_token_s": [answer.first_s for answer in answers],
        "cached_tokens": [answer.n_cached for answer in answers],
        "prompt_tokens": answers[0].n_prompt,
    }


def to_markdown(result: dict[str, Any]) -> str:
    """The figures as a table."""
    if "first_token_s" in result:
        lines = ["| request | first token, s | tokens from the cache |", "|---|---|---|"]
        pairs = zip(result["first_token_s"], result["cached_tokens"], strict=True)
        lines += [f"| {n} | {seconds:.3f} | {cached} |" for n, (seconds, cached) in enumerate(pairs, 1)]
        return "\n".join(lines)
    lines = ["| clients | tok/s | first token p50, s | p95, s |", "|---|---|---|---|"]
    for row in (result["one"], result["all"]):
        lines.append(
            f"| {row['clients']} | {row['tok_s']:.1f} | {row['first_p50_s']:.2f} | {row['first_p95_s']:.2f} |"
        )
    told = f"{result['ratio']:.2f} times one client's; {result['answers_that_differ']} answers differ."
    return "\n".join([*lines, "", told])


def _middle(runs: Sequence[Figures]) -> Figures:
    return sorted(runs, key=lambda run: run.tok_s)[len(runs) // 2]


async def run(arguments: argparse.Namespace) -> int:
    """Measure and print; 1 if an answer differed from the same request alone."""
    target = Target(arguments.url, arguments.api_key)
    arguments.model = arguments.model or await first_model(target)
    measure = measure_shared if arguments.shared else measure_load
    tokens = await tokens_of(target, arguments.model, TEXT.read_text(encoding="utf-8"))
    result = await measure(target, tokens, arguments)
    print(json.dumps(result, indent=2) if arguments.json else to_markdown(result))
    return 1 if result.get("answers_that_differ") else 0


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--api-key")
    parser.add_argument("--model", help="otherwise the server's first")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=100)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--shared", type=int, default=0, metavar="N", help="tokens that prompts share")
    parser.add_argument("--tag", default=str(time.time_ns()), help="the same tag makes the same prompts")
    parser.add_argument("--json", action="store_true")
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
