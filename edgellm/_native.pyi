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
        logits: npt.NDArray[np.float32],
        history: npt.NDArray[np.int32],
        mask: npt.NDArray[np.uint32] | None,
        seed: int,
        step: int,
    ) -> tuple[int, float, list[tuple[int, float]]]: ...

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
