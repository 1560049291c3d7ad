"""What a device is asked for beside mathematics: transfers, memory, and what is said when it runs out."""

import os
import resource
import sys
from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor

from safesail.errors import DeviceMemoryError

_CPU_SAYS = "DefaultCPUAllocator"
"""In the RuntimeError that torch raises where the machine's own memory ends."""


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A CPU tensor on the device; on CUDA nobody waits until it is there."""
    there = torch.device(device)
    if there.type == "cuda":
        return tensor.pin_memory().to(there, non_blocking=True)
    return tensor.to(there)


def to_host(tensor: Tensor) -> Tensor:
    """The tensor on the CPU; on CUDA through pinned memory, and only what was launched before is waited for."""
    if not tensor.is_cuda:
        return tensor.cpu()
    copied = tensor.to("cpu", non_blocking=True)
    torch.cuda.current_stream(tensor.device).record_event().synchronize()
    return copied


@contextmanager
def memory_faults(device: torch.device | str) -> Generator[None, None, None]:
    """Within the block, memory that runs out is one line.

    Raises:
        DeviceMemoryError: there is no more.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or _CPU_SAYS in str(error):
            raise DeviceMemoryError(
                f"out of memory on {device}: lower the tokens per batch (--batch-tokens, batch_tokens), "
                "load fewer SAEs at once, or use --dtype bfloat16"
            ) from error
        raise


def memory_free(device: torch.device | str) -> int:
    """Bytes that could be taken now: of the GPU, or of this machine."""
    there = torch.device(device)
    if there.type == "cuda":
        free, _ = torch.cuda.mem_get_info(there)
        cached = torch.cuda.memory_reserved(there) - torch.cuda.memory_allocated(there)
        return free + cached
    return host_memory()


def memory_total(device: torch.device | str) -> int:
    """Bytes of the GPU, or of this machine."""
    there = torch.device(device)
    if there.type == "cuda":
        return int(torch.cuda.get_device_properties(there).total_memory)
    return host_memory()


def memory_peak(device: torch.device | str) -> int:
    """Most bytes in use so far: of the GPU by this process, or of this process."""
    there = torch.device(device)
    if there.type == "cuda":
        return int(torch.cuda.max_memory_allocated(there))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def host_memory() -> int:
    """Bytes of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
