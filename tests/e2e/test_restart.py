"""A server killed at any moment starts again, and its saved prefixes are right."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.test_serve import command, environment, serving
from tests.support.tiny_model import write_tiny_model

N_KILLS = 4
PREFIX = [n % 250 for n in range(150)]
PROMPTS = [
    *([*PREFIX, *tail] for tail in ([1, 2, 3], [4, 5], [6])),
    *([n % 7 for n in range(size)] for size in (90, 140)),
]


def ask(url: str, prompt: list[int]) -> dict[str, Any]:
    body = {"prompt": prompt, "max_tokens": 12, "temperature": 0, "ignore_eos": True}
    answer: dict[str, Any] = httpx.post(f"{url}/v1/completions", json=body, timeout=60).json()
    return answer


def cached(answer: dict[str, Any]) -> int:
    return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])


def test_a_killed_server_starts_again_and_answers_the_same(tmp_path: Path) -> None:
    model = str(write_tiny_model(tmp_path / "tiny.gguf"))
    options = (model, "--backend", "native", "-t", "1", "-c", "256")
    with serving(tmp_path, *options) as (_, url, _):
        expected = [ask(url, prompt)["choices"][0]["text"] for prompt in PROMPTS]
    kept = (*options, "--cache-dir", str(tmp_path / "cache"), "--cache-size", "1M")
    for n_before in range(N_KILLS):
        with serving(tmp_path, *kept) as (process, url, lines):
            for prompt, text in zip(PROMPTS[:n_before], expected, strict=False):
                assert ask(url, prompt)["choices"][0]["text"] == text
            answers: list[tuple[int, str]] = []

            def keep_asking(index: int, url: str = url, answers: Any = answers) -> None:
                try:
                    while True:
                        answers.append((index, ask(url, PROMPTS[index])["choices"][0]["text"]))
                except httpx.HTTPError:
                    pass  # it has been killed

            asking = [threading.Thread(target=keep_asking, args=(i,)) for i in range(len(PROMPTS))]
            for thread in asking:
                thread.start()
            while len(answers) < 3 * n_before + 1:
                assert process.poll() is None
                time.sleep(0.001)
            process.kill()
            for thread in asking:
                thread.join()
            assert all(text == expected[index] for index, text in answers)
        assert not any("Traceback" in line for line in lines)
    with serving(tmp_path, *kept) as (_, url, _):
        answers_now = [ask(url, prompt) for prompt in PROMPTS]
        assert [answer["choices"][0]["text"] for answer in answers_now] == expected
        assert cached(answers_now[0]) >= 128


def test_one_folder_serves_one_server(tmp_path: Path) -> None:
    model = str(write_tiny_model(tmp_path / "tiny.gguf"))
    folder = str(tmp_path / "cache")
    with serving(tmp_path, model, "--cache-dir", folder):
        second = subprocess.run(
            command("--port", "0", model, "--cache-dir", folder),
            capture_output=True,
            text=True,
            env=environment(tmp_path),
        )
    assert second.returncode == 2
    assert "another edgellm" in second.stderr
