from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

kernels: Any  # single kernels, for tests and benchmarks

def __getattr__(name: str) -> Any: ...

class TokenSampler:
    def __init__(
        self,
        *,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        repeat_penalty: float,
        presence_penalty: float,
        frequency_penalty: float,
        logit_bias: Sequence[tuple[int, float]],
        n_probs: int,
        isa: str = "",
    ) -> None: ...
    def sample(
        self,
        logits: memoryview[Any] | npt.NDArray[np.float32],
        history: array[int] | npt.NDArray[np.int32],
        mask: memoryview | npt.NDArray[np.uint32] | None,
        seed: int,
        step: int,
    ) -> tuple[int, float, list[tuple[int, float]]]: ...

class StringTable:
    def __init__(self, data: memoryview, position: int, count: int) -> None: ...
    def __len__(self) -> int: ...
    @property
    def longest(self) -> int: ...
    def raw(self, index: int) -> bytes: ...
    def find(self, text: bytes) -> int: ...
    def repeated(self) -> tuple[int, int] | None: ...

def skip_strings(data: memoryview, position: int, count: int) -> tuple[int, int]: ...
def first_outside(numbers: memoryview, low: float, high: float) -> int: ...
def read_strings(data: memoryview, position: int, count: int) -> list[bytes]: ...
def quantize(
    type: int,
    values: npt.NDArray[np.float32],
    importance: npt.NDArray[np.float32] | None,
    threads: int,
    scalar: bool = False,
) -> npt.NDArray[np.uint8]: ...
def dequantize(
    type: int, bytes: npt.NDArray[np.uint8], n_values: int, threads: int
) -> npt.NDArray[np.float32]: ...
def quantization_error(
    type: int,
    bytes: npt.NDArray[np.uint8],
    values: npt.NDArray[np.float32],
    importance: npt.NDArray[np.float32] | None,
    threads: int,
) -> tuple[float, float]: ...
