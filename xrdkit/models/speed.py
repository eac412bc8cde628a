"""What the machine gives networks: a fast number format, memory, and when it is short."""

import ctypes
import gc
import sys
import time

import torch

KEPT, USUAL = 2**30, 2**17  # bytes of freed memory that stay with the process
NO_ROOM = "can't allocate memory", "could not create a primitive"  # of torch, oneDNN
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


CHOSEN: dict[str, torch.dtype] = {}  # what devices compute in, once it is known


def fast_dtype(device: str) -> torch.dtype:
    """bf16 where it multiplies matrices at least 1.5 times as fast as fp32.

    It is measured once; processes that share a run agree on it (``train.parallel.join``).
    """
    if device not in CHOSEN:
        pays = device.startswith("cuda") or _speed_up() > 1.5
        CHOSEN[device] = torch.bfloat16 if pays else torch.float32
    return CHOSEN[device]


def _speed_up() -> float:
    """How many times as fast as fp32 bf16 is, the best of rounds taken in turns."""
    rounds = [(_seconds(torch.float32), _seconds(torch.bfloat16)) for _ in range(6)]
    single, half = map(min, zip(*rounds, strict=True))
    return single / half


def _seconds(dtype: torch.dtype) -> float:
    a = torch.ones(2048, 256, dtype=dtype)
    b = torch.ones(256, 256, dtype=dtype)
    start = time.perf_counter()
    torch.nn.functional.linear(a, b)
    return time.perf_counter() - start


def autocast(device: str) -> torch.autocast:
    """Mixed precision where it pays."""
    dtype = fast_dtype(device)
    return torch.autocast(device.split(":")[0], dtype, enabled=dtype != torch.float32)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a tensor found no room."""
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or any(said in str(error) for said in NO_ROOM)


def keep_memory() -> None:
    """Let freed memory stay with this process, where the C library is glibc.

    Else every step gives it back and has it mapped and cleared afresh, page by page.
    """
    if libc := _glibc():
        libc.mallopt(TRIM_THRESHOLD, KEPT)
        libc.mallopt(MMAP_THRESHOLD, KEPT)


def free_memory() -> None:
    """Give back what is free, after there was too little, and from now on at once."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if libc := _glibc():
        libc.mallopt(TRIM_THRESHOLD, USUAL)
        libc.mallopt(MMAP_THRESHOLD, USUAL)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library, if its memory can be steered."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
