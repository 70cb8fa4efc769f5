"""Each command of the README and of docs/, run as it stands there: on tiny models, without a network.

docs/python.md has its own test (`test_python.py`). Commands that cannot run here are in `NOT_HERE`.
"""

from __future__ import annotations

import contextlib
import glob
import io
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgellm.cli import main
from edgellm.convert.checkpoint import Checkpoint
from edgellm.convert.pipeline import write
from edgellm.convert.recipes import recipe
from edgellm.convert.source import plan_conversion
from edgellm.engine.load_options import LoadOptions
from edgellm.server.settings import ServerSettings
from edgellm.store.catalog import known_models, stored_path
from edgellm.store.hub_catalog import find_on_hub
from tests.support.checkpoints import write_checkpoint
from tests.support.cli import NO_NETWORK
from tests.support.encoders import encoders
from tests.support.http_server import running
from tests.support.paths import ROOT
from tests.support.tiny_model import write_tiny_model
from tests.unit.convert.test_adapter import write_adapter

pytest.importorskip("edgellm._native", reason="needs the built extension module")

# Commands that are not run, by their beginning, and why.
NOT_HERE = {
    "git clone": "installs from nothing; scripts/first_line runs it in fresh systems",
    ".venv/bin/": "works in a new environment; scripts/first_line has such lines",
    "python -m venv": "makes a new environment; scripts/first_line has such lines",
    "sudo ": "changes the system",
    "/opt/edgellm": "pipes into sudo; `edgellm serve m.gguf --install-service` is the same command",
    "docker ": "needs Docker and its images",
    "edgellm bench a.gguf --save": "runs for ten minutes",
    "edgellm bench model.gguf --save": "runs for ten minutes",
    "edgellm bench compare": "reads records of two machines; tests/unit/benchmark has it",
    "edgellm tune": "measures for minutes",
    "edgellm search": "asks the Hub; tests/unit/test_store_hub.py has it on a server of its own",
    "python bench/compare.py": "needs other engines; tests/unit/benchmark/test_compare.py has its parts",
    "python -m bench.embed": "needs sentence-transformers; measures for minutes",
    "python -m bench.int4": "needs llama-cpp-python; calibrates for half an hour",
    "python bench/serve_load.py": "loads a server for minutes; tests/e2e/test_load.py does so briefly",
}
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAM = re.compile(
    r"^ {4}((?:\S*/)?(?:edgellm|git|sudo|docker|curl|pip|python3?|cat|echo) .*)$", re.MULTILINE
)
# Repositories of the Hub and quantizations that the documents name.
OTHER_FILES = (("user/repo", "Q4_K_M"), ("unsloth/Qwen3-8B-GGUF", "Q4_K_M"))
SERVER = re.compile(r"http://(127\.0\.0\.1|pi\.local):8080")
# Settings for a short run; the commands are the documents'.
ENVIRONMENT = {
    "EDGELLM_OFFLINE": "1",
    "HF_HUB_OFFLINE": "1",
    "EDGELLM_THREADS": "1",
    "EDGELLM_MAX_TOKENS": "8",
    "EDGELLM_REPETITIONS": "1",
    "EDGELLM_LIMITS": "off",
    "EDGELLM_COLD": "off",
    "EDGELLM_TOKENS": "64",
}


def commands() -> list[str]:
    """Every command of the documents, lines that go on joined, comments left out."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8").replace("\\\n", " ")
        found += [re.sub(r"\s+(# .*|&)$", "", line).strip() for line in PROGRAM.findall(text)]
    return sorted(set(found))


def programs() -> list[str]:
    """Every Python program of the documents that is written as an indented block."""
    found = []
    for document in DOCUMENTS:
        text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
        blocks = re.findall(r"(?:^ {4}.*\n|^\n(?= {4}))+", text, re.MULTILINE)
        found += [textwrap.dedent(block) for block in blocks if re.match(r"\s*(import|from) ", block)]
    return found


def reason(line: str) -> str:
    """Reason for which the command is not run; empty if it is."""
    return next((why for begin, why in NOT_HERE.items() if line.startswith(begin)), "")


def encoder(name: str, path: Path) -> None:
    folder = encoders()[name].write(path.with_suffix(""))
    settings = {"prompts": {"query": "task: search result | query: "}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    checkpoint = Checkpoint(folder)
    write(plan_conversion(checkpoint, recipe("F32"), threads=1), path, threads=1)


def in_hub_cache(cache: Path, repository: str) -> Path:
    """A folder for files of a repository, as the Hub's own library lays its cache out."""
    place = cache / ("models--" + repository.replace("/", "--"))
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    (folder := place / "snapshots" / ("0" * 40)).mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the documents name."""
    folder = tmp_path_factory.mktemp("files")
    tiny = write_tiny_model(folder / "model.gguf", **{"llama.context_length": 32768})
    for name in ("a", "b", "m", "in", "small", "large"):
        shutil.copy(tiny, folder / f"{name}.gguf")
    (folder / "models").mkdir()
    shutil.copy(tiny, folder / "models" / "one.gguf")
    encoder("bert-mean", folder / "minilm.gguf")
    encoder("bert-rank", folder / "bge-reranker-v2-m3.gguf")
    encoder("gemma-dense", folder / "embeddinggemma.gguf")
    write_checkpoint(folder / "checkpoint")
    write_adapter(folder / "adapter")
    for name in ("texts", "lines", "notes", "questions"):
        (folder / f"{name}.txt").write_text("Why is the sky blue?\nTides come twice a day.\n")
    (folder / "city.json").write_text(json.dumps({"type": "string", "maxLength": 4}))
    cache = folder / "hub"
    qwen = find_on_hub("qwen3:4b")
    assert qwen is not None
    for repository, name in ((qwen.repo, "Q4_K_M"), (qwen.repo, "Q6_K"), *OTHER_FILES):
        place = cache / ("models--" + repository.replace("/", "--"))
        inside = place / "snapshots" / ("0" * 40) if place.exists() else in_hub_cache(cache, repository)
        shutil.copy(tiny, inside / f"model-{name}.gguf")
    write_checkpoint(cache / "models--user--repo" / "snapshots" / ("0" * 40))
    write_checkpoint(in_hub_cache(cache, "HuggingFaceTB/SmolLM2-135M-Instruct"))
    return folder


@pytest.fixture
def place(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files as the current folder, with the models of the catalog in edgellm's store."""
    folder = tmp_path / "here"
    shutil.copytree(files, folder, symlinks=True)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    for name in ("EDGELLM_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("HF_HUB_CACHE", str(folder / "hub"))
    for model in known_models():
        path = stored_path(model)
        path.parent.mkdir(parents=True)
        shutil.copy(folder / "model.gguf", path)
        os.truncate(path, model.size)  # the store knows a whole file by its size
    monkeypatch.setattr("edgellm.convert.calibrating.FULL_TOKENS", 1024)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(os, "urandom", random.Random(1).randbytes)
    return folder


@pytest.fixture(scope="module")
def url(files: Path) -> Iterator[str]:
    with running([("tiny", files / "model.gguf")], LoadOptions(), ServerSettings(port=0)) as server:
        yield server.url


class Pipe(io.TextIOWrapper):
    """Standard input that is a pipe."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="utf-8")


def words_of(line: str) -> tuple[list[str], bytes]:
    """Words of the last program of a line of the shell, and its standard input."""
    given, lexer = b"Hello\n", shlex.shlex(line, posix=True, punctuation_chars="|<")
    lexer.whitespace_split = True
    words: list[str] = []
    tokens = iter(lexer)
    for token in tokens:
        if token == "|":
            given, words = subprocess.run(words, capture_output=True, check=True).stdout, []
        elif token == "<":
            given = Path(next(tokens)).read_bytes()
        else:
            words += sorted(glob.glob(token)) or [token] if "*" in token else [token]
    return words, given


def free_port() -> int:
    with contextlib.closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def serve(words: list[str]) -> None:
    """Start a server as a process, wait until it is ready, and end it as systemd does."""
    environment = {"PYTHONPATH": f"{NO_NETWORK}{os.pathsep}{ROOT}", "EDGELLM_PORT": str(free_port())}
    process = subprocess.Popen(
        [sys.executable, "-m", "edgellm", *words],
        env=os.environ | environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if "ready: " in line:
                process.send_signal(signal.SIGTERM)
    assert "ready: " in said, said
    assert process.returncode == 0, said


@pytest.mark.parametrize("line", [line for line in commands() if not reason(line)])
def test_the_command_runs(
    line: str,
    place: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if SERVER.search(line):
        line = SERVER.sub(request.getfixturevalue("url"), line)
    words, given = words_of(line)
    if words[0] == "curl":
        if shutil.which("curl") is None:
            pytest.skip("needs curl")
        done = subprocess.run([*words, "-sS"], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["choices"]
        return
    assert words[0] == "edgellm"
    if words[1] == "serve" and "--install-service" not in words:
        serve(words[1:])
        return
    if words[1] in ("convert", "quantize"):
        for written in ("model.gguf", "out.gguf"):
            Path(written).unlink(missing_ok=True)
    monkeypatch.setattr(sys, "stdin", Pipe(given))
    status = main(words[1:])
    said = capfd.readouterr()
    if "--min-top1" in words:  # random weights lose more than a model's
        assert status == 1
        assert "of the choices agree with the source, expected at least 0.95" in said.err
        return
    assert status == 0, said.err
    assert said.out.strip() or words[1] == "rm"


@pytest.mark.parametrize("number", range(len(programs())))
def test_the_program_runs(
    number: int, place: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    source = programs()[number]
    if SERVER.search(source):
        source = SERVER.sub(request.getfixturevalue("url"), source)
    exec(compile(source, f"program {number}", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.strip()


def test_commands_that_are_not_run_have_a_reason() -> None:
    found = commands()
    assert len([line for line in found if not reason(line)]) >= 50
    for begin in NOT_HERE:
        assert any(line.startswith(begin) for line in found), f"{begin} is in no document"
    assert len(programs()) == 2
