"""Several processes on one run, started by torchrun: each takes a share of the blocks.

torchrun --nproc-per-node 2 -m xrdkit train flow …
"""

import atexit
import os

import torch
from torch import Tensor, distributed

from xrdkit.models.speed import CHOSEN, fast_dtype


def join(device: str) -> None:
    """Take part in the group that torchrun has announced, if there is one.

    All compute in the number format of the first process. A process leaves the group of
    CPUs when it ends: Gloo's threads may still hold tensors of the last message, and to
    free them while Python shuts down aborts the process.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        backend = "nccl" if device.startswith("cuda") else "gloo"
        distributed.init_process_group(backend)
        if backend == "gloo":  # where NCCL's processes leave, a failed one waits for all
            atexit.register(distributed.destroy_process_group)
        half = torch.tensor(fast_dtype(device) == torch.bfloat16, device=device).int()
        distributed.broadcast(half, 0)  # what was measured differs where cores are shared
        CHOSEN[device] = torch.bfloat16 if half else torch.float32


def place() -> tuple[int, int]:
    """Which process this is, and of how many."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def add_up(tensors: list[Tensor]) -> None:
    """Put the sum over all processes into each tensor, in one message."""
    if place()[1] > 1:
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))
