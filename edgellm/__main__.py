"""`python -m edgellm` and the `edgellm` script."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line and exit with its status."""
    from edgellm.cli import main as run

    status = run()
    if sys.argv[1:2] == ["run"]:
        # It has closed and flushed all it had; taking the interpreter apart as well would take 20 ms.
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    main()
