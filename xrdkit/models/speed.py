"""What makes networks fast here: the number format of the processor, memory that stays."""

import ctypes
import sys
import time
from functools import cache

import torch

KEPT = 2**30  # bytes of freed memory that stay with the process
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


@cache
def fast_dtype(device: str) -> torch.dtype:
    """bf16 where it multiplies matrices at least 1.5 times as fast as fp32."""
    if device.startswith("cuda"):
        return torch.bfloat16
    return (
        torch.bfloat16
        if _seconds(torch.float32) > 1.5 * _seconds(torch.bfloat16)
        else (torch.float32)
    )


def _seconds(dtype: torch.dtype) -> float:
    a = torch.ones(2048, 256, dtype=dtype)
    b = torch.ones(256, 256, dtype=dtype)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        torch.nn.functional.linear(a, b)
        times.append(time.perf_counter() - start)
    return min(times)


def autocast(device: str) -> torch.autocast:
    """Mixed precision where it pays."""
    dtype = fast_dtype(device)
    return torch.autocast(device.split(":")[0], dtype, enabled=dtype != torch.float32)


def keep_memory() -> None:
    """Let freed memory stay with this process, where the C library is glibc.

    Else every step gives it back and has it mapped and cleared afresh, page by page.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(TRIM_THRESHOLD, KEPT)
        libc.mallopt(MMAP_THRESHOLD, KEPT)
