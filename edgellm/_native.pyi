"""The native engine of edgellm."""

from collections.abc import Sequence
from typing import Annotated

import numpy
import numpy.typing
from numpy.typing import NDArray
from typing_extensions import Buffer


def multiply(x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], weights: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], threads: int, scalar: bool = False) -> None:
    """out = x @ weights.T, the same bits on every machine."""

def add_moments(x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], sums: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], threads: int, scalar: bool = False) -> None:
    """
    The lower triangle of sums += that of x.T @ x, the same bits on every machine.
    """

def exponentials(x: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu')], threads: int, scalar: bool = False) -> None:
    """x = exp(x), the same bits on every machine."""

def takes_feedback(type: int) -> bool:
    """True if Feedback can encode the format."""

class Feedback:
    """Encodes matrices, errors of done columns made up for by others."""

    def __init__(self, moments: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], block: int, shrink: float, damp: float, threads: int, scalar: bool = False) -> None:
        """ValueError: the moments are not those of any inputs."""

    def encode(self, type: int, values: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], out: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')]) -> None:
        """
        Writes the bytes of a matrix. OverflowError: a value is NaN, infinite or too large.
        """

class ModelError(ValueError):
    pass

class ContextFull(RuntimeError):
    pass

class CacheFull(RuntimeError):
    pass

WINDOW_SLACK: int = 256

class Engine:
    """A model's program, planned, and after `load` ready to run."""

    def __init__(self, program: str, types: Sequence[tuple[str, int]], *, threads: int, context: int, cache_tokens: int, batch: int, kv_type: str, isa: str, speeds: Sequence[tuple[int, float]] = []) -> None:
        """
        types: (weight, GGML type number) of every weight of the program text. speeds: (CPU, speed) of the
        CPUs that the process may use; none: they are alike.
        """

    def add_adapter(self, updates: Sequence[tuple[str, int, int, Buffer | numpy.typing.NDArray[numpy.uint8], int, Buffer | numpy.typing.NDArray[numpy.uint8], float]]) -> None:
        """
        Declares an adapter, before `load`: (weight, rank, type and bytes of A, type and bytes of B, scale)
        of each weight that it changes.
        """

    def load(self, tensors: Sequence[tuple[str, int, Buffer | numpy.typing.NDArray[numpy.uint8]]], release: bool = False) -> None:
        """
        Packs the weights: (name, GGML type number, bytes) each. release: lets the system drop the pages
        of the bytes; only for a file mapping.
        """

    def memory(self) -> dict[str, int]:
        """
        Bytes of weights, cache, scratch, adapters, and state_per_sequence; also before `load`.
        """

    def step(self, tokens: Buffer | numpy.typing.NDArray[numpy.int32], sequences: Buffer | numpy.typing.NDArray[numpy.int32], outputs: Buffer | numpy.typing.NDArray[numpy.uint8], n_largest: int = 0) -> memoryview:
        """
        Appends tokens[i] to sequences[i] (int32 each); a sequence's tokens are consecutive. Returns float32
        logits (n, n_vocab) for the n bytes of `outputs` that are not 0. Only the n_largest largest logits of
        each row are exact; the others hold some smaller value. 0: all exact.
        """

    @property
    def unread_bytes(self) -> int:
        """Bytes of weights that all steps so far skipped thanks to n_largest."""

    @property
    def multiplied_rows(self) -> int:
        """
        Rows that matrices have multiplied so far, each counted once for each matrix; experts aside.
        """

    def hidden(self, tokens: Buffer | numpy.typing.NDArray[numpy.int32], scales: Sequence[float] = (), lengths: Sequence[int] = ()) -> memoryview:
        """
        Hidden rows (n, width) of new sequences of int32 tokens, closed again. scales: one for each adapter, or none. lengths: tokens of each sequence, which fit in one batch (none: one sequence).
        """

    def set_profile(self, on: bool) -> None: ...

    def profile(self) -> dict[str, int]:
        """Nanoseconds by kind of stage, since set_profile."""

    def open_sequence(self, scales: Sequence[float] = []) -> int:
        """The number of a new sequence."""

    def close_sequence(self, sequence: int) -> None: ...

    def fork_sequence(self, sequence: int, n_tokens: int) -> int:
        """
        A new sequence that shares the first n_tokens; -1 if that past is no longer held or there is no room.
        """

    def truncate_sequence(self, sequence: int, n_tokens: int) -> bool:
        """
        Drops all but the first n_tokens; False if that past is no longer held.
        """

    def sequence_length(self, sequence: int) -> int: ...

    def save_sequence(self, sequence: int) -> bytes: ...

    def restore_sequence(self, saved: bytes, scales: Sequence[float] = []) -> int:
        """
        A new sequence from saved bytes; -1 if they do not fit this model or there is no room.
        """

    def save_blocks(self, sequence: int, first: int, n_blocks: int) -> bytes:
        """
        Keys and values of whole blocks. Empty if the sequence does not hold them, or has windows or states.
        """

    def append_blocks(self, sequence: int, saved: bytes) -> bool:
        """False, and nothing changed, if they do not fit."""

    @property
    def free_tokens(self) -> int: ...

    @property
    def block_tokens(self) -> int: ...

def isas() -> list[str]:
    """Names of the kernel sets that were built, weakest first."""

def usable_isas() -> list[str]:
    """Names of the kernel sets that this CPU can run, weakest first."""

def best_isa() -> str:
    """
    Name of the fastest kernel set that this CPU can run. On Arm, sets are timed once if need be.
    """

def kv_types() -> list[str]:
    """Names of the types in which a cache stores keys and values."""

def faster_kv_type(isa: str) -> str:
    """
    The faster 16-bit cache type of a kernel set; of an unknown one: that of "scalar".
    """

def memory_bytes() -> int:
    """Memory of the machine in bytes; 0 if unknown."""

def allowed_cpus() -> int:
    """CPUs in this process's affinity mask."""

def trim_heap() -> None:
    """Gives freed memory of the heap back to the system."""

def guard_mapping(data: Buffer | numpy.typing.NDArray[numpy.uint8]) -> int:
    """
    Pages of a file mapping that its file loses read as zeros until unguard_mapping of the number
    returned.
    """

def unguard_mapping(number: int) -> None: ...

def mapping_torn(number: int) -> bool:
    """True if a page was missing when it was read."""

def measure_limits(threads: int, isa: str, seconds: float = 0.25, n_bytes: int = 0) -> dict[str, float]:
    """
    Peak bytes read and multiply-adds per second, on all threads at once. n_bytes: size of the buffer that
    is read; 0: far larger than the caches.
    """

class TokenSampler:
    def __init__(self, *, temperature: float, top_k: int, top_p: float, min_p: float, penalties: tuple[float, float, float], logit_bias: Sequence[tuple[int, float]], n_probs: int, isa: str = '') -> None:
        """
        penalties: repeat, presence and frequency. n_probs: number of likeliest tokens; -1: no log probabilities.
        """

    def sample(self, logits: Buffer | numpy.typing.NDArray[numpy.float32], history: Buffer | numpy.typing.NDArray[numpy.int32], mask: Buffer | numpy.typing.NDArray[numpy.uint32] | None, seed: int, step: int) -> tuple[int, float, list[tuple[int, float]]]:
        """
        Chooses a token: (id, logprob, top) from float32 logits, int32 history, uint32 mask. FloatingPointError: a
        logit is NaN or infinite. IndexError: no token is allowed.
        """

def quantize(type: int, values: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], importance: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None, threads: int, scalar: bool = False) -> NDArray[numpy.uint8]:
    """
    The bytes of a matrix in a format, scales chosen for the least weighted square error. scalar: without
    the instruction sets of this machine. OverflowError: a value is NaN, infinite or too large.
    """

def dequantize(type: int, bytes: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], n_values: int, threads: int) -> NDArray[numpy.float32]:
    """The values of whole blocks of a format."""

def quantization_error(type: int, bytes: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], values: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], importance: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None, threads: int) -> tuple[float, float]:
    """(Weighted) sums of square differences and of squares."""

def skip_strings(data: Buffer | numpy.typing.NDArray[numpy.uint8], position: int, count: int) -> tuple[int, int]:
    """
    Walks over `count` GGUF strings from `position` on: the number of whole ones, and where the last ends.
    """

def read_strings(data: Buffer | numpy.typing.NDArray[numpy.uint8], position: int, count: int) -> list[bytes]:
    """The bytes of GGUF strings."""

def first_outside(numbers: Buffer, low: float, high: float) -> int:
    """
    The index of the first number outside [low, high], or NaN; -1 if there is none.
    """

class StringTable:
    """GGUF strings in place, hashed for look-ups."""

    def __init__(self, data: Buffer | numpy.typing.NDArray[numpy.uint8], position: int, count: int) -> None: ...

    def __len__(self) -> int: ...

    @property
    def longest(self) -> int:
        """Bytes of the longest string."""

    def repeated(self) -> tuple[int, int] | None:
        """
        Indices of the first string (not the empty one) that occurs again, and of its second occurrence.
        """

    def raw(self, index: int) -> bytes: ...

    def find(self, text: bytes) -> int:
        """The lowest index of a string, -1 if it is not there."""

class BpeEncoder:
    """Byte-pair encoding of plain text."""

    def __init__(self, tokens: StringTable, merges: StringTable, hidden: Buffer | numpy.typing.NDArray[numpy.uint8], byte_ids: Sequence[int], unknown: int, *, rules: Sequence[tuple[str, str]], ignore_merges: bool, byte_level: bool) -> None:
        """
        hidden: one byte for each token, not 0 if text must not become it. byte_ids: byte token of each byte, or
        -1. unknown: id or -1. rules: (expression, category or "") of each cut.
        """

    def encode(self, text: str) -> list[int]:
        """The ids of a text without special tokens. ModelError: it has none."""

class SpmEncoder:
    """SentencePiece's byte-pair encoding of plain text."""

    def __init__(self, tokens: StringTable, scores: Buffer | numpy.typing.NDArray[numpy.float32], hidden: Buffer | numpy.typing.NDArray[numpy.uint8], byte_ids: Sequence[int], unknown: int) -> None: ...

    def encode(self, text: str) -> list[int]:
        """The ids of a text without special tokens. ModelError: it has none."""
