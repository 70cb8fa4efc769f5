"""`edgellm fit`: models that suit this machine, before anything is fetched."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from edgellm.benchmark.fitting import Fit, fit_file, fit_size
from edgellm.benchmark.prediction import SIZE_SPREAD, SPREAD
from edgellm.benchmark.probe import RateBook
from edgellm.commands.loading import load_options
from edgellm.commands.options import (
    CONTEXT,
    ISA,
    JSON,
    KV_TYPE,
    OFFLINE,
    SWITCH,
    THREADS,
    Command,
    Option,
    Positional,
)
from edgellm.commands.settings import Settings
from edgellm.engine.load_options import LoadOptions
from edgellm.errors import DownloadError, EdgeLLMError, FileError, harmless, one_line, size_text
from edgellm.gguf.distant import read_distant
from edgellm.gguf.reader import GGUFFile
from edgellm.store import hub
from edgellm.store.catalog import KnownModel, find_known, is_stored, known_models, stored_path
from edgellm.store.hub_access import list_files, read_range
from edgellm.store.hub_catalog import LEAST_TOK_S, WEIGHT_BYTES, HubModel, find_on_hub, hub_models
from edgellm.store.paths import offline_by_environment, state_folder

RATES_FILE = "rates.json"
# Format of most matrices of a mix, by the names that the catalog uses.
_MAIN_FORMATS = {"Q4_K_M": "Q4_K", "Q8_0": "Q8_0", "MXFP4": "MXFP4", "Q4_1": "Q4_1"}
# Usual sizes of models, in parameters.
_SIZES = {"0.5B": 0.5e9, "1B": 1e9, "3B": 3e9, "7B": 7e9, "14B": 14e9, "32B": 32e9, "70B": 70e9}


@dataclass(frozen=True, slots=True)
class Row:
    """One model: its fit, or the reason why there is none. basis: "file", "header" or "size"."""

    name: str
    basis: str
    on_disk: bool
    fit: Fit | None
    problem: str = ""


def run(settings: Settings) -> int:
    """Print the fit of the named models, or of all; 1 if one that is named cannot be judged."""
    names = settings["names"] or ["all"]
    book = rate_book(quiet=settings["json"], anew=settings["measure"])
    rows = [row for name in names for row in fits(name, settings, book)]
    _show(rows, as_json=settings["json"])
    failed = any(row.fit is None for row in rows)
    return 1 if failed and "all" not in names else 0


def judge_all(settings: Settings) -> int:
    """Print the fit of all models, for `edgellm list --fit`."""
    _show(list(_all(LoadOptions(), rate_book(quiet=settings["json"]))), as_json=settings["json"])
    return 0


def _show(rows: list[Row], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([flat(row) for row in rows], indent=2, ensure_ascii=False))
    else:
        print_rows(rows)


def rate_book(*, quiet: bool = False, anew: bool = False) -> RateBook:
    """Rates of this machine, as they are kept in the state folder, or measured anew."""

    def say(sentence: str) -> None:
        if not quiet:
            print(f"edgellm: {sentence}", file=sys.stderr)

    return RateBook(state_folder() / RATES_FILE, say, anew=anew)


def model_fit(path: Path, options: LoadOptions | None = None) -> Fit:
    """Fit of a model file on disk; raises as planning does."""
    with GGUFFile.open(path) as file:
        return fit_file(file, options or LoadOptions(), rate_book())


def answers_fast(model: HubModel, book: RateBook | None = None) -> bool:
    """True if a known model's answers are predicted to be fast enough to be read as they come."""
    tok_s = _known_size(model, LoadOptions(), book or rate_book()).speed.answer_tok_s
    return (tok_s or LEAST_TOK_S) >= LEAST_TOK_S


def usual_sizes(book: RateBook) -> list[Row]:
    """Models of usual sizes in Q4_K_M on this machine, up to the first that it has no memory for."""
    rows: list[Row] = []
    for name, parameters in _SIZES.items():
        n_bytes = round(parameters * WEIGHT_BYTES["Q4_K_M"])
        fit = fit_size(n_bytes, parameters, _MAIN_FORMATS["Q4_K_M"], LoadOptions(), book)
        rows.append(Row(name, "size", False, fit))
        if fit.fits is False:
            break
    return rows


def fits(name: str, settings: Settings, book: RateBook) -> Iterator[Row]:
    """Rows of a name: a file, a folder of files, a known model, a repository of the Hub, or `all`."""
    options = load_options(settings)
    path = Path(name).expanduser()
    if path.is_dir():
        found = sorted(file for file in path.glob("*.gguf") if hub.is_first(file.name))
        if not found:
            raise FileError(f"{path}: holds no GGUF file; give a model, or `all`")
        for file in found:
            yield _of_file(file.name, file, options, book)
    elif path.is_file():
        yield _of_file(name, path, options, book)
    elif name == "all":
        yield from _all(options, book)
    else:
        yield _named(name, settings, options, book)


def _all(options: LoadOptions, book: RateBook) -> Iterator[Row]:
    """The catalog, by files where they are on disk, else by sizes."""
    for known in known_models():
        yield _of_known(known, options, book)
    for model in hub_models():
        parsed = hub.parse_name(model.reference)
        path = None if parsed is None else hub.cached(parsed)
        if path is not None:
            yield _of_file(model.name, path, options, book)
        else:
            yield Row(model.name, "size", False, _known_size(model, options, book))


def _of_known(known: KnownModel, options: LoadOptions, book: RateBook) -> Row:
    if is_stored(known):
        return _of_file(known.name, stored_path(known), options, book)
    mix = next((name for name in _MAIN_FORMATS if name in known.file), "Q4_K_M")
    kind = _MAIN_FORMATS[mix]
    # A mix of 4 to 5 bits a weight, or of a byte.
    parameters = known.size / (1.07 if kind == "Q8_0" else 0.65)
    return Row(known.name, "size", False, fit_size(known.size, parameters, kind, options, book))


def _named(name: str, settings: Settings, options: LoadOptions, book: RateBook) -> Row:
    """A known model or one of the Hub: on disk, by its header, or, without a network, by its size."""
    if known := find_known(name):
        return _of_known(known, options, book)
    model = find_on_hub(name)
    parsed = hub.parse_name(name if model is None else model.reference)
    if parsed is None:
        raise FileError(
            f"{name}: there is no such file, and no model of that name; `edgellm list` shows the names"
        )
    if path := hub.cached(parsed):
        return _of_file(name, path, options, book)
    problem = "the network is off"
    if not (settings["offline"] or offline_by_environment()):
        try:
            file = distant_model(parsed)
        except DownloadError as error:
            problem = one_line(error)
        else:
            return _row(name, "header", file, options, book)
    if model is None:
        raise DownloadError(f"{name}: its header cannot be read: {problem}")
    print(f"edgellm: {name}: judged by its size alone: {problem}", file=sys.stderr)
    return Row(name, "size", False, _known_size(model, options, book))


def distant_model(name: hub.HubName) -> GGUFFile:
    """A model of the Hub by its headers, read by ranges; DownloadError if they cannot be had."""
    chosen = hub.choose(list_files(name.repo), name)
    return read_distant(hub.parts(chosen), lambda file, start, end: read_range(name.repo, file, start, end))


def _known_size(model: HubModel, options: LoadOptions, book: RateBook) -> Fit:
    return fit_size(
        model.size,
        model.parameters,
        _MAIN_FORMATS[model.quantization],
        options,
        book,
        active=model.active,
        generates=model.generates,
    )


def _of_file(name: str, path: Path, options: LoadOptions, book: RateBook) -> Row:
    try:
        file = GGUFFile.open(path)
    except EdgeLLMError as error:
        return Row(name, "file", True, None, one_line(error))
    with file:
        return _row(name, "file", file, options, book)


def _row(name: str, basis: str, file: GGUFFile, options: LoadOptions, book: RateBook) -> Row:
    try:
        return Row(name, basis, basis == "file", fit_file(file, options, book))
    except EdgeLLMError as error:
        return Row(name, basis, basis == "file", None, one_line(error))


def flat(row: Row) -> dict[str, object]:
    """A row as JSON has it."""
    out: dict[str, object] = {"name": row.name, "basis": row.basis, "on_disk": row.on_disk}
    if row.fit is None:
        return out | {"problem": row.problem}
    facts: dict[str, object] = asdict(row.fit)
    speed: dict[str, object] = asdict(row.fit.speed)
    return out | {key: value for key, value in facts.items() if key != "speed"} | speed


def print_rows(rows: list[Row]) -> None:
    """Print a table, and the meaning of its columns."""
    width = max(len(row.name) for row in rows)
    print(f"{'NAME':<{width}}  {'SIZE':>8}  {'MEMORY':>8}  {'PROMPT':>8}  {'ANSWER':>8}  FITS")
    for row in rows:
        name = harmless(f"{row.name:<{width}}")
        if row.fit is None:
            print(f"{name}  {row.problem}")
            continue
        fit, mark = row.fit, "~" if row.basis == "size" else ""
        cells = [size_text(fit.n_bytes), mark + size_text(fit.memory)]
        for tok_s in (fit.speed.prompt_tok_s, fit.speed.answer_tok_s):
            cells.append("-" if tok_s is None else f"{mark}{tok_s:.{0 if tok_s >= 20 else 1}f}")
        words = {True: "yes", None: "if other programs are closed", False: "no"}[fit.fits]
        if fit.fits is not False and (fit.speed.answer_tok_s or LEAST_TOK_S) < LEAST_TOK_S:
            words += ", slow"
        print(f"{name}  {'  '.join(f'{cell:>8}' for cell in cells)}  {words}")
    n_ctx = max((row.fit.n_ctx for row in rows if row.fit), default=0)
    print(
        f"\nMEMORY at a context of {n_ctx} tokens. PROMPT and ANSWER: predicted tokens a second, from this "
        f"machine's\nmeasured rates; expect them within {SPREAD:.0%}, and those with ~, which know the "
        f"model's size alone, within {SIZE_SPREAD:.0%}."
    )


COMMAND = Command(
    summary="Say which models suit this machine, and how fast they will be.",
    run=run,
    description="Says for models, fetched or not, how much memory they take and how many tokens a second to\n"
    "expect here. The engine's speed on this machine is measured once, in some seconds, and kept.\n"
    "A name of the catalog or of the Hub is judged by its file's header, which is read from the Hub\n"
    "(some megabytes); `all` judges models that are not on disk by their size.",
    positionals=(Positional("names", "a GGUF file, a folder of them, a name, user/repo:QUANT, or all", "*"),),
    options=(
        *(CONTEXT, THREADS, KV_TYPE, ISA, OFFLINE, JSON),
        Option("measure", ("--measure",), "measure this machine again", SWITCH, default=False),
    ),
    examples=(
        ("edgellm fit", "all models that have a name"),
        ("edgellm fit qwen3:4b", "one, by its header on the Hub"),
        ("edgellm fit model.gguf -c 16384", "a file, with a longer context"),
        ("edgellm fit models/ -t 2", "all files of a folder, with two threads"),
        ("edgellm fit unsloth/Qwen3-8B-GGUF:Q4_K_M", "a repository, before it is fetched"),
    ),
)
