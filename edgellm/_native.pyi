from typing import Any

kernels: Any  # single kernels, for tests and benchmarks
