"""The C library: the same tokens, prompts and answers as Python, and errors instead of crashes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import edgellm
from edgellm.convert.exporting import export
from edgellm.families import trained_context
from edgellm.gguf.reader import GGUFFile
from edgellm.tokenizer import Tokenizer
from tests.contract.test_tokenizers import INJECTIONS, random_texts
from tests.support import c_api, malformed_gguf
from tests.support.c_api import CallError, CModel
from tests.support.cli import edgellm as command
from tests.support.paths import ROOT
from tests.support.tiny_model import write_tiny_model
from tests.support.vocabularies import NAMES, small_spm, vocabulary_metadata

HEADER = ROOT / "native" / "api" / "edgellm.h"
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello <|im_end|> there"},
    {"role": "assistant", "content": " Hi.\n"},
    {"role": "user", "content": "Why?"},
]


@pytest.fixture(autouse=True)
def built() -> None:
    c_api.library_path()


def exported(source: Path, target: Path) -> Path:
    with GGUFFile.open(source) as file:
        export(file, target, trained_context(file.metadata), lambda done, total: None)
    return target


def tiny(folder: Path, **changes: object) -> Path:
    """A tiny model, exported."""
    return exported(write_tiny_model(folder / "source.gguf", **changes), folder / "model.gguf")


@pytest.mark.parametrize("name", NAMES)
def test_tokens_are_those_of_python(name: str, tmp_path: Path) -> None:
    metadata = {
        key: value for key, value in vocabulary_metadata(name).items() if key.startswith("tokenizer.")
    }
    path = tiny(tmp_path, template=None, **metadata)
    python = Tokenizer.from_metadata(metadata)  # type: ignore[arg-type]
    with CModel(path, n_threads=1, n_context=32) as model:
        for text in (*random_texts(20, 400), *INJECTIONS, "", " ", "a" * 5000, "\U0001f642" * 50):
            for special in (False, True):
                ids = model.tokenize(text, add_special=special, parse_special=special)
                assert ids == python.encode(text, add_special=special, parse_special=special), text
        for token in range(0, python.n_vocab, 97):
            assert model.token_text(token) == python.token_bytes(token)


def test_a_space_before_the_text_and_byte_tokens(tmp_path: Path) -> None:
    for number, scheme in enumerate(("always", "first", "")):
        metadata = small_spm(**{"tokenizer.ggml.add_bos_token": True})
        if scheme:
            metadata["edgellm.tokenizer.prepend_scheme"] = scheme
        folder = tmp_path / str(number)
        folder.mkdir()
        python = Tokenizer.from_metadata(metadata)  # type: ignore[arg-type]
        with CModel(tiny(folder, **metadata), n_threads=1) as model:
            for text in ("ab", " ab", "é<|user|>ab<|im_end|> a", "<b>a\n\nb", "\u2581a"):
                for special in (False, True):
                    ids = model.tokenize(text, parse_special=special)
                    assert ids == python.encode(text, parse_special=special), (scheme, text)


def test_prompts_and_answers_are_those_of_python(tmp_path: Path) -> None:
    path = tiny(tmp_path)
    with edgellm.load(path, threads=1) as python, CModel(path, n_threads=1) as model:
        for n in (2, 4):
            ids = python.template.encode(CHAT[:n])
            assert model.chat(CHAT[:n]) == ids
            text = "".join(python.chat(CHAT[:n], max_tokens=40, temperature=0.0))
            assert "".join(model.generate(ids, 40)) == text
            drawn: dict[str, Any] = {
                "temperature": 0.8,
                "top_k": 40,
                "top_p": 0.9,
                "min_p": 0.01,
                "repeat_penalty": 1.1,
            }
            text = "".join(python.chat(CHAT[:n], max_tokens=40, seed=7, penalty_last_n=-1, **drawn))
            assert "".join(model.generate(ids, 40, {**drawn, "seed": 7})) == text


def test_real_models_answer_as_in_python(smollm2: Path, tmp_path: Path) -> None:
    path = exported(smollm2, tmp_path / "model.gguf")
    messages = [{"role": "user", "content": "Why is the sky blue?"}]
    with edgellm.load(path, threads=2) as python, CModel(path, n_threads=2) as model:
        expected = "".join(python.chat(messages, max_tokens=24, temperature=0.0))
        assert "".join(model.generate(model.chat(messages), 24)) == expected
        for text in random_texts(21, 300):
            assert model.tokenize(text) == python.tokenizer.encode(text)


def test_a_sequence_is_computed_only_where_it_differs(tmp_path: Path) -> None:
    with CModel(tiny(tmp_path), n_threads=1, n_batch=3, n_context=64) as model:
        whole = model.step(range(10))
        assert model.length() == 10
        assert model.keep([0, 1, 2, 9]) == 3
        assert model.length() == 3
        assert model.step(range(3, 10)) == whole
        assert model.keep([]) == 0
        assert model.step(range(10)) == whole
        best = max(range(len(whole)), key=whole.__getitem__)
        assert model.sample(whole) == best
        draws = {model.sample(whole, step, temperature=5.0, seed=1) for step in range(20)}
        assert len(draws) > 3
        assert draws == {model.sample(whole, step, temperature=5.0, seed=1) for step in range(20)}


def test_the_callback_ends_an_answer(tmp_path: Path) -> None:
    with CModel(tiny(tmp_path), n_threads=1) as model:
        assert len(model.generate([1, 2, 3], 30, stop_after=2)) == 2


def test_a_file_in_another_file_is_opened_by_its_descriptor(tmp_path: Path) -> None:
    raw = tiny(tmp_path).read_bytes()
    package = tmp_path / "package"
    package.write_bytes(b"\1" * 4128 + raw + b"\2" * 99)
    with package.open("rb") as file:
        model = CModel(file.fileno(), offset=4128, n_bytes=len(raw), n_threads=1)
        with pytest.raises(CallError, match="multiple of 32"):
            CModel(file.fileno(), offset=4127, n_bytes=len(raw))
        with pytest.raises(CallError, match="the descriptor's file"):
            CModel(file.fileno(), offset=0, n_bytes=4096)
        with pytest.raises(CallError):
            CModel(file.fileno(), offset=1 << 40)
    with model, CModel(tmp_path / "model.gguf", n_threads=1) as other:
        assert model.step(range(5)) == other.step(range(5))


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    plain = write_tiny_model(tmp_path / "plain.gguf")
    with pytest.raises(
        CallError, match=r"plain.gguf: the file holds no program .* `edgellm export"
    ) as caught:
        CModel(plain)
    assert caught.value.status == c_api.MODEL
    with pytest.raises(CallError, match=r"no\.gguf: No such file") as caught:
        CModel(tmp_path / "no.gguf")
    assert caught.value.status == c_api.FILE
    path = tiny(tmp_path)
    with pytest.raises(CallError, match="--context") as caught:
        CModel(path, n_context=100_000)
    assert caught.value.status == c_api.BAD_ARGUMENT
    with CModel(path, n_threads=1, n_context=8) as model:
        with pytest.raises(CallError, match="n_context") as caught:
            model.step(range(9))
        assert caught.value.status == c_api.CONTEXT_FULL
        with pytest.raises(CallError, match="vocabulary"):
            model.step([100_000])
        with pytest.raises(CallError, match="does not allow a message of the role 'tool'"):
            model.chat([{"role": "tool", "content": "x"}])
        with pytest.raises(CallError, match="must not be NULL"):
            c_api.call("edgellm_step", model.handle, model.sequence, None, 0, None)
        c_api.call("edgellm_close_sequence", model.handle, model.sequence)
        with pytest.raises(CallError, match="sequence 0 is not open"):
            model.step([1])
    assert c_api.library().edgellm_version().decode() == edgellm.__version__


def test_what_cannot_be_stored_is_said(tmp_path: Path) -> None:
    dated = "{{ strftime_now('%d') }}{% for m in messages %}{{ m.content }}{% endfor %}"
    source = write_tiny_model(tmp_path / "dated.gguf", template=dated)
    done = command("export", source, tmp_path / "out.gguf")
    assert done.status == 0
    assert (
        "Without Python this part cannot be used: the model's chat template writes today's date" in done.err
    )
    with CModel(tmp_path / "out.gguf", n_threads=1) as model:
        assert model.tokenize("ab", add_special=False) == [256]
        with pytest.raises(CallError, match="today's date"):
            model.chat(CHAT)
    again = command("export", source, tmp_path / "out.gguf")
    assert again.status == 1
    assert "exists already" in again.err


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    for number, case in enumerate(malformed_gguf.CASES):
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(case.data)
        with pytest.raises(CallError) as caught:
            CModel(path)
        assert caught.value.status in (c_api.MODEL, c_api.FILE), case
    raw = bytearray(tiny(tmp_path).read_bytes())
    for n in (30, 500, 5000, len(raw) - 100):
        path = tmp_path / "short.gguf"
        path.write_bytes(raw[:n])
        with pytest.raises(CallError):
            CModel(path)


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_example_builds_as_c11_and_chats(tmp_path: Path) -> None:
    program, library = tmp_path / "chat", c_api.library_path()
    flags = ["-std=c11", "-pedantic", "-Wall", "-Wextra", "-Werror", f"-I{HEADER.parent}"]
    link = [str(library), f"-Wl,-rpath,{library.parent}"]
    subprocess.run(["cc", *flags, str(ROOT / "examples" / "chat.c"), *link, "-o", str(program)], check=True)
    path = tiny(tmp_path, **{"llama.context_length": 2048})
    with edgellm.load(path, threads=1) as model:
        messages = [{"role": "user", "content": "Hello"}]
        first = "".join(model.chat(messages, max_tokens=200, temperature=0.0))
        messages += [{"role": "assistant", "content": first}, {"role": "user", "content": "Why?"}]
        second = "".join(model.chat(messages, max_tokens=200, temperature=0.0))
    environment = os.environ | {"LC_ALL": "C"}
    done = subprocess.run([program, path, "Hello", "Why?"], capture_output=True, check=True, env=environment)
    assert done.stdout.decode() == f"{first}\n{second}\n"


def test_every_function_is_documented() -> None:
    text = HEADER.read_text(encoding="utf-8")
    blocks = re.split(r"\n\s*\n", text)
    for block in blocks:
        if "EDGELLM_API " in block and "#define" not in block:
            assert block.lstrip().startswith("/*"), block
