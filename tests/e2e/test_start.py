"""Imports of a start, from the command line to the first token."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.tiny_model import write_tiny_model
from tests.support.vocabularies import small_bpe, small_spm

pytest.importorskip("edgellm._native", reason="needs the built extension module")

_COMMAND = """
import json, sys
from edgellm.cli import main
status = main(sys.argv[1:])
print(json.dumps([status, sorted({name.split(".")[0] for name in sys.modules})]), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (["run", "--raw", "MODEL", "ab"], ""),
        (["run", "MODEL", "ab", "--temp", "0", "--repeat-penalty", "1.1"], ""),
        (["chat", "MODEL"], "ab\n"),
    ],
    ids=["raw", "run", "chat"],
)
@pytest.mark.parametrize("vocabulary", [small_bpe(), small_spm()], ids=["bpe", "spm"])
def test_the_first_token_comes_without_numpy(
    tmp_path: Path, command: list[str], text: str, vocabulary: dict[str, object]
) -> None:
    """NumPy would take a fifth of a small model's start, for a few lists of numbers."""
    path = write_tiny_model(tmp_path / "tiny.gguf", **vocabulary)
    arguments = [str(path) if argument == "MODEL" else argument for argument in command]
    done = subprocess.run(
        [sys.executable, "-c", _COMMAND, *arguments, "-n", "2"],
        cwd=ROOT,
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    status, modules = json.loads(done.stderr.splitlines()[-1])
    assert status == 0
    assert not {"numpy", "logging", "ssl", "tokenizers", "rich", "prompt_toolkit"} & set(modules)
