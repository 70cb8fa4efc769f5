"""`python -m edgellm` and the `edgellm` script."""

from __future__ import annotations

import gc
import os
import sys


def main() -> None:
    """Run the command line and exit with its status."""
    one_answer = sys.argv[1:2] == ["run"]
    if one_answer:
        # Imported modules stay until the end; scanning them for garbage again and again would take 6 ms.
        gc.disable()
    from edgellm.cli import main as run

    status = run()
    if one_answer:
        # Everything is closed and flushed; tearing the interpreter down as well would take 20 ms.
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    main()
