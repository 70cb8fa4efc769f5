"""Errors that edgellm raises on purpose, sizes in words, and the safe printing of foreign text.

Each message is one sentence: it names the file, the field, what was found, what was expected and what to do
next. The command line prints the message and exits with `exit_code`; the server answers with `http_status`.
"""

from reprlib import Repr


class EdgeLLMError(Exception):
    """Base of every error that edgellm raises on purpose."""

    exit_code = 1
    http_status = 500


class FileError(EdgeLLMError):
    """A file is missing, unreadable, or cannot be written."""

    http_status = 404


class FormatError(EdgeLLMError):
    """A file's content is malformed: truncated, out of bounds, inconsistent."""


class UnsupportedError(EdgeLLMError):
    """The content is well formed but asks for something edgellm does not implement."""


class ModelError(EdgeLLMError):
    """A model's tensors and metadata do not fit together: missing tensor, wrong shape, NaN weights."""


class MemoryLimitError(EdgeLLMError):
    """The model, its cache and its scratch space do not fit in the available memory."""

    http_status = 503


class ContextOverflowError(EdgeLLMError):
    """A prompt, or a prompt and its answer, is longer than the context."""

    http_status = 400


class OverloadedError(EdgeLLMError):
    """The queue of waiting requests is full; the same request may succeed later."""

    http_status = 503


class TemplateError(EdgeLLMError):
    """A chat template is malformed, breaks its limits, or refuses the messages."""

    http_status = 400


class UsageError(EdgeLLMError):
    """An option has a value that cannot be used."""

    exit_code = 2
    http_status = 400


class DownloadError(EdgeLLMError):
    """A model could not be fetched, or its checksum is wrong."""


class ServerError(EdgeLLMError):
    """A server cannot be reached, refuses a request, or breaks off."""


class BackendError(EdgeLLMError):
    """An engine failed, or an optional engine is not installed."""


class MissingPackageError(BackendError):
    """A package that this installation does without, and that what was asked for needs."""

    http_status = 501

    def __init__(self, purpose: str, package: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package}, which is not installed; "
            f"install it with {pip_install(package)}{_compilation(package)}"
        )


def _compilation(package: str) -> str:
    """Words on what else Android needs, where pip finds no wheel and compiles."""
    import sys

    if not hasattr(sys, "getandroidapilevel"):
        return ""
    tools = "pkg install " + ("clang cmake" if package == "sentencepiece" else "rust clang")
    return f"; Android has no build of it, so pip compiles it, which takes long: first `{tools}`"


class NoMemoryError(BackendError):
    """The system gives no memory for something; the message names the limit of this process, if any."""

    http_status = 503

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} needs more memory than the system gives{_address_limit()}")


def _address_limit() -> str:
    from edgellm.system.limits import address_space

    most = address_space()
    if most is None:
        return ""
    return f"; the address space of at most {size_text(most)} (ulimit -v) is used up"


def pip_install(*packages: str) -> str:
    """Command that installs packages for the Python that runs here, whatever `pip` on the path is."""
    import shlex
    import sys

    return f"`{shlex.join([sys.executable or 'python', '-m', 'pip', 'install', *packages])}`"


def missing_engine() -> str:
    """Sentence for a folder of sources without the compiled engine; empty if the engine is there."""
    from importlib.util import find_spec
    from pathlib import Path

    if find_spec("edgellm._native") is not None:
        return ""
    return (
        f"{Path(__file__).parent} holds no compiled engine: start Python in another folder to use the "
        f"installed edgellm, or compile it in place with {pip_install('-e', '.')}"
    )


class FileChangedError(BackendError):
    """A model's file was shortened or overwritten while the model was in use."""

    http_status = 503


def size_text(n_bytes: float) -> str:
    """Bytes for a person, in powers of 1000: `98.4 MB`, `253 MB`, `2.5 GB` (the page's `sizeOf`)."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 999.5:
            return f"{n_bytes:.{1 if unit != 'B' and n_bytes < 99.95 else 0}f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"


# ---- Foreign text in messages and on terminals ----

_REPR = Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 100

# A terminal obeys control characters. With them a text can hide, rename the window, or fill the clipboard.
_CONTROLS: dict[int, str | None] = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)), "\ufffd")
_CONTROLS[ord("\r")] = None


def show(value: object) -> str:
    """A value for a message: quoted, escaped, cut to a readable length."""
    if not isinstance(value, str):
        return _REPR.repr(value)
    text = repr(value[:100])
    return text if len(value) <= 100 else f"{text[:80]}... ({len(value)} characters)"


def harmless(text: str) -> str:
    """A text for a terminal: U+FFFD replaces control characters other than newline and tab."""
    return text.translate(_CONTROLS)


def one_line(value: object) -> str:
    """A value as a part of one line."""
    return harmless(" ".join(str(value).split()))
