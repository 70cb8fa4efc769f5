"""`edgellm bench --save` and `edgellm bench compare`: records of benchmarks, and their comparison."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.errors import FileError, UsageError

if TYPE_CHECKING:
    from edgellm.benchmark.recording import Recorder
    from edgellm.benchmark.report import Row

_HTML = "compare.html"


def record(
    path: Path,
    target: Path,
    measure: Callable[[Recorder], list[Row]],
) -> list[Row]:
    """Measure under watch, and write the record; its problems go to standard error."""
    from edgellm.benchmark.record import save
    from edgellm.benchmark.recording import recording

    if not target.parent.is_dir():
        raise FileError(f"{target}: there is no folder {target.parent}; give another file to --save")
    with recording(path) as recorder:
        rows = measure(recorder)
    save(recorder.record, target)
    say(f"the record is in {target}; `edgellm bench compare {target} OTHER.json` compares it")
    for problem in recorder.record.problems:
        say(f"{target.name}: {problem}")
    return rows


def compare(names: Sequence[str], page_file: str | None) -> int:
    """Print the table of records, and write their page."""
    from edgellm.benchmark.comparison import Named, table
    from edgellm.benchmark.page import page
    from edgellm.benchmark.record import load

    if not names:
        raise UsageError("bench compare needs records: edgellm bench compare A.json B.json")
    paths = [Path(name) for name in names]
    stems = [path.stem for path in paths]
    titles = [stem if stems.count(stem) == 1 else str(path) for stem, path in zip(stems, paths, strict=True)]
    records = [Named(title, load(path)) for title, path in zip(titles, paths, strict=True)]
    sys.stdout.write(table(records))
    target = Path(page_file or _HTML)
    try:
        target.write_text(page(records), encoding="utf-8")
    except OSError as error:
        raise FileError(
            f"{target}: cannot be written: {error.strerror}; give another file to --html"
        ) from None
    say(f"the page with plots is {target}")
    return 0


def say(sentence: str) -> None:
    """Print a sentence to standard error."""
    print(f"edgellm: {sentence}", file=sys.stderr)
