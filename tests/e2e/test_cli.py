"""Command line from outside: output, exit status, and one sentence for every failure.

The engine here is the NumPy interpreter, on a model of a few thousand random weights.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgellm import __version__
from edgellm.engine.load_options import LoadOptions
from edgellm.engine.model import Model
from edgellm.gguf.types import GGMLType
from tests.support.cli import NO_NETWORK, Result, edgellm
from tests.support.gguf_builder import GGUFBuilder
from tests.support.paths import ROOT
from tests.support.tiny_model import tiny_builder, write_tiny_model

INTERPRETER = {"EDGELLM_BACKEND": "interpreter"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny.gguf")


def refused(result: Result, status: int = 1) -> str:
    """The one sentence on stderr of a command that failed as it should."""
    assert result.status == status, result
    assert result.out == ""
    lines = result.err.strip().splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("edgellm: ")
    return lines[0]


def test_version() -> None:
    assert edgellm("--version") == Result(0, f"edgellm {__version__}\n", "")


def test_help_names_the_commands() -> None:
    result = edgellm("--help")
    assert result.status == 0
    assert "edgellm chat model.gguf" in result.out
    assert edgellm("help", "run").out.startswith("usage: edgellm run")
    assert edgellm().status == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bogus"], "there is no command 'bogus'; the commands are chat"),
        (["rnu"], "did you mean `edgellm run`?"),
        (["model.gguf"], "`edgellm chat model.gguf`"),
        (["run", "--bogus", "x"], "there is no option --bogus; see `edgellm run --help`"),
        (["run", "--temp", "x", "hi you"], "'x' is not a number"),
        (["run", "--temp", "-1", "hi you"], "temperature is -1"),
        (["run", "--kv-type", "q1", "hi you"], "choose from"),
        (["rm"], "required: NAMES"),
    ],
)
def test_wrong_usage(tiny: Path, arguments: list[str], says: str) -> None:
    if "hi you" in arguments:
        arguments = [*arguments, "-m", str(tiny)]
    assert says in refused(edgellm(*arguments, **INTERPRETER), 2)


def test_run_prints_the_answer_and_nothing_else(tiny: Path) -> None:
    result = edgellm("run", tiny, "Hello you", "--temp", "0", "-n", "5", **INTERPRETER)
    assert (result.status, result.err) == (0, "")
    assert result.out.endswith("\n")
    again = edgellm("run", "-m", tiny, "-n", "5", "--temp", "0", stdin="Hello you\n", **INTERPRETER)
    assert again == result


def test_options_may_stand_between_the_model_and_the_prompt(tiny: Path) -> None:
    options = ("--temp", "0", "-n", "5")
    plain = edgellm("run", tiny, "Hello you", *options, **INTERPRETER)
    assert plain.status == 0
    assert edgellm("run", tiny, *options, "Hello", "you", **INTERPRETER) == plain
    assert edgellm("run", *options[:2], tiny, *options[2:], "--", "Hello you", **INTERPRETER) == plain
    dashed = edgellm("run", tiny, *options, "--", "--raw", **INTERPRETER)
    assert dashed == edgellm("run", tiny, "--prompt=--raw", *options, **INTERPRETER)


def test_standard_input_is_part_of_the_prompt(tiny: Path) -> None:
    both = edgellm("run", tiny, "-p", "Sum up:", "--temp", "0", "-n", "5", stdin="text\n", **INTERPRETER)
    one = edgellm("run", tiny, "Sum up:\n\ntext", "--temp", "0", "-n", "5", **INTERPRETER)
    assert both == one


def test_raw_continues_the_prompt(tiny: Path) -> None:
    options = ("--temp", "0", "-n", "5")
    raw = edgellm("run", tiny, "user: Hello you", "--raw", *options, **INTERPRETER)
    assert raw.status == 0
    assert raw.out != edgellm("run", tiny, "user: Hello you", *options, **INTERPRETER).out


def test_seed_makes_answers_repeatable(tiny: Path) -> None:
    answers = {
        edgellm("run", tiny, "a b", "--temp", "2", "-n", "8", "--seed", seed, **INTERPRETER).out
        for seed in ("1", "1", "2")
    }
    assert len(answers) == 2


def test_statistics_go_to_standard_error(tiny: Path) -> None:
    result = edgellm("run", tiny, "a b", "-n", "3", "--temp", "0", "--stats", **INTERPRETER)
    assert result.err.startswith("3 tokens, ")
    assert "context 9 % full" in result.err


def test_draft_tokens_change_no_answer(tiny: Path) -> None:
    options = ("run", tiny, "a b a b a b", "-n", "40", "--temp", "0", "--stats", "--logit-bias", "257=-inf")
    plain = edgellm(*options, "--draft-max", "0")
    drafted = edgellm(*options, "--draft", tiny)
    assert plain.out == drafted.out
    assert "guesses right" in drafted.err
    assert "guesses right" not in plain.err
    assert "it must be an integer of at least 0" in refused(edgellm(*options, "--draft-max", "-1"), 2)
    told = edgellm(*options, "--draft-max", "3", **INTERPRETER)
    assert "speculative decoding is off: on the backend interpreter" in told.err


def test_a_prompt_that_does_not_fit(tiny: Path) -> None:
    text = refused(edgellm("run", tiny, "long " * 100, **INTERPRETER))
    assert "256" in text
    assert "context" in text


def test_an_answer_that_fills_the_context(tiny: Path) -> None:
    options = ("-c", "40", "--temp", "0", "--logit-bias", "257=-inf")
    result = edgellm("run", tiny, "Hello you", *options, **INTERPRETER)
    assert result.status == 0
    assert "context of 40 tokens is full" in result.err


def test_no_prompt() -> None:
    assert "There is no prompt" in refused(edgellm("run"), 2)


def test_chat_over_a_pipe(tiny: Path, tmp_path: Path) -> None:
    saved = tmp_path / "talk.json"
    lines = f"Hello\n/set temperature 0\n/bogus\nAgain\n/save {saved}\n/bye\nnever\n"
    result = edgellm("chat", tiny, "-n", "4", stdin=lines, **INTERPRETER)
    assert result.status == 0
    assert "There is no /bogus" in result.err
    assert result.err.count("the first after") == 2
    messages = json.loads(saved.read_text())["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    assert result.out == "".join(m["content"] + "\n" for m in messages if m["role"] == "assistant")


def test_a_model_without_a_template_warns_once(tmp_path: Path) -> None:
    model = tmp_path / "base.gguf"
    model.write_bytes(tiny_builder(template=None).build())
    result = edgellm("chat", model, "-n", "2", stdin="Hello\nAgain\n", **INTERPRETER)
    assert result.status == 0
    assert result.err.count("no chat template") == 1


def test_show(tiny: Path) -> None:
    summary = json.loads(edgellm("show", tiny, "--json", "-c", "128").out)
    assert (summary["name"], summary["architecture"], summary["n_tensors"]) == ("Tiny", "llama", 11)
    assert summary["memory"]["context"] == 128
    assert summary["memory"]["cache"] == 128 * 2 * 32 * 4
    smaller = json.loads(edgellm("show", tiny, "--json", "-c", "128", "--kv-type", "f16").out)
    assert smaller["memory"]["cache"] == 128 * 2 * 32 * 2
    shown = edgellm("show", tiny).out
    assert "memory" in shown
    assert "edgellm serve: cache " in shown
    assert edgellm("show", tiny, "--program").out.startswith("program llama n_vocab=258")
    assert "blk.0.attn_q.weight" in edgellm("show", tiny, "--tensors").out
    assert len(json.loads(edgellm("show", tiny, "--tensors", "--json").out)) == 11
    assert "llama.context_length = 256" in edgellm("show", tiny, "--metadata").out
    assert json.loads(edgellm("show", tiny, "--metadata", "--json").out)["llama.context_length"] == 256
    assert "add_generation_prompt" in edgellm("show", tiny, "--template").out


def test_show_of_what_cannot_be_run(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "other.gguf", **{"general.architecture": "nonesuch"})
    result = edgellm("show", model)
    assert result.status == 0
    assert "cannot run" in result.out
    assert "nonesuch" in refused(edgellm("show", model, "--program"))


HOSTILE = "\x1b]0;title\x07\x1b[2Jname\x9b31m\r\nand more"


def test_show_prints_no_control_characters_of_a_file(tmp_path: Path) -> None:
    model = tiny_builder(**{"general.name": HOSTILE, "general.license": HOSTILE, f"key{HOSTILE}": 1})
    path = model.tensor(f"t{HOSTILE}", GGMLType.F32, (4,)).write(tmp_path / "model.gguf")
    for view in ((), ("--tensors",), ("--metadata",)):
        result = edgellm("show", path, *view)
        assert result.status == 0
        assert result.out.replace("\n", "").isprintable()
    assert "name          \ufffd]0;title\ufffd\ufffd[2Jname\ufffd31m and more\n" in edgellm("show", path).out


def test_answers_are_bytes_to_a_pipe_and_harmless_to_a_terminal(tiny: Path) -> None:
    pty = pytest.importorskip("pty")
    with Model.load(tiny, LoadOptions(), vocab_only=True) as model:
        escape = next(i for i in range(model.n_vocab) if model.tokenizer.token_bytes(i) == b"\x1b")
    arguments = ["run", str(tiny), "hello", "--temp", "0", "-n", "3", "-l", f"{escape}=1000"]
    assert edgellm(*arguments, **INTERPRETER).out == "\x1b" * 3 + "\n"
    ours, theirs = pty.openpty()
    try:
        subprocess.run(
            [sys.executable, "-m", "edgellm", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | INTERPRETER,
            check=True,
            timeout=60,
        )
        assert os.read(ours, 1000).decode().strip() == "\ufffd" * 3
    finally:
        os.close(ours)
        os.close(theirs)


def test_doctor(tiny: Path, tmp_path: Path) -> None:
    found = json.loads(edgellm("doctor", tiny, "--json", "--offline").out)
    assert found["network"] == "off"
    assert all(check["ok"] for check in found["checks"])
    assert edgellm("doctor", "--offline").status == 0
    hostile = write_tiny_model(tmp_path / "hostile.gguf", template="{% for i in range(10**9) %}{% endfor %}")
    result = edgellm("doctor", hostile, "--offline")
    assert result.status == 1
    assert "FAILED        template:" in result.out


def test_list_and_rm(tmp_path: Path) -> None:
    home = Path(os.environ["EDGELLM_HOME"])
    (home / "models").mkdir(parents=True)
    own = write_tiny_model(home / "models" / "own.gguf")
    rows = json.loads(edgellm("list", "--json").out)
    assert all(row["path"] is None for row in rows if row["source"] == "known on the Hub")
    names = [row["name"] for row in rows if row["source"] != "known on the Hub"]
    assert names == ["gemma-3-270m", "smollm2-135m-instruct", str(own)]
    assert {"llama-3.2-3b", "qwen3-0.6b"} < {row["name"] for row in rows}
    assert edgellm("ls").out.startswith("NAME")
    other = write_tiny_model(tmp_path / "other.gguf")
    assert "remove it yourself" in refused(edgellm("rm", other))
    assert other.exists()
    assert "not on disk" in refused(edgellm("rm", "smollm2"))
    assert edgellm("rm", own).status == 0
    assert not own.exists()


@pytest.mark.parametrize("arguments", [["run", "a b"], ["chat"], ["pull"], ["run", "-m", "u/r:Q4_0", "a b"]])
def test_offline_is_absolute(arguments: list[str]) -> None:
    for extra, environment in (
        (["--offline"], {}),
        ([], {"HF_HUB_OFFLINE": "1"}),
        ([], {"EDGELLM_OFFLINE": "1"}),
    ):
        text = refused(edgellm(*arguments, *extra, **environment))
        assert "the network is off" in text


def _bad_contents() -> dict[str, tuple[bytes, str]]:
    """Contents that are no model, and a pattern for the message about each."""
    good = tiny_builder().build()
    nan = tiny_builder()
    nan.tensors = [t for t in nan.tensors if t.name != "output_norm.weight"]
    return {
        "empty": (b"", "empty"),
        "text": (b"This is not a model.\n" * 10, "GGUF"),
        "truncated header": (good[:100], "truncated|ends"),
        "truncated data": (good[:-100], "truncated|ends"),
        "old version": (b"GGUF\x01\x00\x00\x00" + good[8:], "version"),
        "zip": (b"PK\x03\x04" + b"\0" * 100, "GGUF"),
        "unknown architecture": (tiny_builder(**{"general.architecture": "nonesuch"}).build(), "nonesuch"),
        "missing tensor": (nan.build(), "output_norm"),
        "no tokenizer": (GGUFBuilder().kv("general.architecture", "llama").build(), ""),
        "wrong shape": (
            tiny_builder(**{"llama.feed_forward_length": 96}).build(),
            "ffn|feed_forward",
        ),
        "unknown tensor type": (tiny_builder().tensor("x", 99, (4,), b"\0" * 16).build(), "99"),
        "unknown tokenizer": (tiny_builder(**{"tokenizer.ggml.model": "nonesuch"}).build(), "nonesuch"),
        "extra type": (tiny_builder().tensor("x", GGMLType.F32, (4,), b"\0" * 4).build(), ""),
    }


BAD_CONTENTS = _bad_contents()


@pytest.mark.parametrize("name", BAD_CONTENTS)
def test_contents_that_are_no_model(tmp_path: Path, name: str) -> None:
    content, says = BAD_CONTENTS[name]
    path = tmp_path / f"{name}.gguf"
    path.write_bytes(content)
    text = refused(edgellm("run", "-m", path, "Hello you", **INTERPRETER))
    assert re.search(says, text), text
    assert path.name in text


def test_paths_that_are_no_model(tmp_path: Path) -> None:
    assert "no such file" in refused(edgellm("run", "-m", tmp_path / "none.gguf", "Hello you", **INTERPRETER))
    assert "directory" in refused(edgellm("run", "-m", tmp_path, "Hello you", **INTERPRETER))


def test_a_file_that_may_not_be_read(tiny: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    path = tmp_path / "secret.gguf"
    path.write_bytes(tiny.read_bytes())
    path.chmod(0)
    assert "secret.gguf" in refused(edgellm("run", "-m", path, "Hello you", **INTERPRETER))


def test_a_reader_that_leaves_early_is_no_error(tiny: Path) -> None:
    variables = os.environ | INTERPRETER | {"PYTHONPATH": f"{NO_NETWORK}{os.pathsep}{ROOT}"}
    command = f'"{sys.executable}" -m edgellm show "{tiny}" --metadata --json | head -c 1'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=variables, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("arguments", ["--version", 'show "{model}"', 'run -m "{model}" -n 3 Hello you'])
def test_output_that_cannot_be_written_is_a_sentence(tiny: Path, arguments: str) -> None:
    variables = os.environ | INTERPRETER | {"PYTHONPATH": f"{NO_NETWORK}{os.pathsep}{ROOT}"}
    command = f'"{sys.executable}" -m edgellm {arguments.format(model=tiny)} > /dev/full'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=variables, timeout=60)
    said = "edgellm: writing the output: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_ctrl_c_ends_a_run_with_130(tiny: Path) -> None:
    variables = os.environ | INTERPRETER | {"PYTHONPATH": f"{NO_NETWORK}{os.pathsep}{ROOT}"}
    arguments = ["run", "-m", str(tiny), "-p", "Hello you", "--logit-bias", "257=-inf", "--temp", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "edgellm", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=variables,
    )
    assert process.stdout is not None
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    start = time.perf_counter()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == b""
    assert time.perf_counter() - start < 10
