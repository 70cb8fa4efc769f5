"""Running the command line as a person would: a process of its own, without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

TIMEOUT_S = 60
NO_NETWORK = Path(__file__).parent / "no_network"


@dataclass(frozen=True, slots=True)
class Result:
    """Output and exit status of a process."""

    status: int
    out: str
    err: str


def edgellm(*arguments: str | Path, stdin: str | bytes = b"", **environment: str) -> Result:
    """Run `edgellm ARGUMENTS`; `environment` is added to that of the test."""
    variables = os.environ | {"PYTHONPATH": f"{NO_NETWORK}{os.pathsep}{ROOT}", "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, "-m", "edgellm", *map(str, arguments)],
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        capture_output=True,
        timeout=TIMEOUT_S,
        env=variables | environment,
    )
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())
