"""The quantizer where the system gives it less than it asks for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

# 512 stacks of 8 MiB do not fit; what the process has already may take no more than it does.
FEW_THREADS = """
import resource
import numpy as np
from edgellm.errors import BackendError
from edgellm.gguf.types import GGMLType
from edgellm.quant import native
values = np.ones((512, 32768), np.float32)
native.encode_rows(GGMLType.Q8_0, values[:1], threads=1)
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (512 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    native.encode_rows(GGMLType.Q8_0, values, threads=512)
except BackendError as error:
    print(error)
print(len(native.encode_rows(GGMLType.Q8_0, values[:64], threads=2)))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's limits of address space")
def test_threads_that_the_system_refuses_are_an_error() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FEW_THREADS],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    message, n_bytes = done.stdout.splitlines()
    assert "use fewer threads" in message, done.stderr
    assert n_bytes == str(64 * 32768 // 32 * 34)
