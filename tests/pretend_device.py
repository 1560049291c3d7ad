"""A pretend GPU with real numbers: a tensor on device `pretend` is a CPU tensor that says it is elsewhere.

After `install()`, `.to("pretend")` and `device="pretend"` work in every thread; mixing devices raises as CUDA does,
`numpy()` raises, and every transfer and every sync is logged with the line of the package that caused it.

What it cannot tell: speed and memory; streams, pinned memory and overlap (each transfer counts as a wait, as one from
pageable memory is); fused attention (the mathematical one runs); kernels that a device lacks; rounding of its own
(results are the CPU's). Indexing with lists of numbers is logged as a transfer of the index. In inference mode views
fail: code that is to run here uses `no_grad`.
"""

import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_iter, tree_map

aten: Any = torch.ops.aten
_c: Any = torch._C  # pyright: ignore[reportPrivateUsage]
_DEVICE: Any = import_module("torch.utils._device")
_BACKEND: Any = import_module("torch.utils.backend_registration")
NAME = "pretend"


@dataclass(frozen=True)
class Event:
    """One transfer or sync."""

    kind: str
    """`to device`, `to host`, or what the host waits for."""

    n_bytes: int
    dtype: str
    shape: tuple[int, ...]
    line: str
    """File and line of the package."""


LOG: list[Event] = []
"""Every transfer and every sync since it was last cleared; each makes the host wait for the device."""

INDEXED = {
    aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default
}  # fmt: skip
"""CUDA takes their indices from the CPU."""

SYNCS = {
    aten.nonzero.default, aten.masked_select.default, aten._local_scalar_dense.default, aten._unique2.default,
    aten.equal.default, aten.is_nonzero.default, aten.bincount.default,
}  # fmt: skip
MADE_BY_RESIZING = (
    "arange", "arange.start", "arange.start_step", "linspace", "eye", "randperm", "randperm.generator"
)  # fmt: skip
"""Factories whose out= variant resizes an empty tensor, which a wrapper does not notice."""

ACROSS = {aten.copy_.default, aten._to_copy.default, aten._pin_memory.default}
"""What may take tensors of two devices."""


class Pretend(torch.Tensor):
    """A CPU tensor that says it is elsewhere."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls: type["Pretend"], held: torch.Tensor) -> "Pretend":
        made: Any = torch.Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=torch.device(NAME, 0), requires_grad=False,
        )  # fmt: skip
        made.held = held
        return made

    __torch_function__ = _c._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def tolist(self) -> list[Any]:
        return self.cpu().tolist()

    def __repr__(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"Pretend({self.held})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "Pretend":
        return memo.setdefault(id(self), Pretend(self.held.clone()).requires_grad_(self.requires_grad))


def _log(kind: str, tensor: torch.Tensor | None = None) -> None:
    frame: Any = inspect.currentframe()
    while frame is not None and "/safesail/" not in frame.f_code.co_filename:
        frame = frame.f_back
    line = "?" if frame is None else f"{frame.f_code.co_filename.split('/safesail/')[-1]}:{frame.f_lineno}"
    if tensor is None:
        LOG.append(Event(kind, 0, "", (), line))
    else:
        size = tensor.numel() * tensor.element_size()
        LOG.append(Event(kind, size, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), line))


def _bare(tree: Any) -> Any:
    def bare(value: Any) -> Any:
        return value.held if isinstance(value, Pretend) else value

    return tree_map(bare, tree)


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if func is aten._fused_sdp_choice.default:
        return 0  # the mathematical one
    given = kwargs.get("device")
    there = given is not None and torch.device(given).type == NAME
    wrapped = [t for t in tree_iter((args, kwargs)) if isinstance(t, Pretend)]
    _check_devices(func, args, kwargs, wrapped)
    _log_waits(func, args, kwargs, there)
    bare = _bare(kwargs)
    if there:
        bare["device"] = torch.device("cpu")
    out = func(*_bare(args), **bare)
    if torch.Tag.inplace_view in func.tags and wrapped:
        with no_dispatch():  # the wrapper has a shape of its own
            return func(*args, **kwargs)
    if func is aten.copy_.default:
        return args[0]
    return _wrapped(out, wrapped) if there or (wrapped and given is None) else out


def _wrapped(out: Any, came: list[Pretend]) -> Any:
    known = {id(t.held): t for t in came}  # in place: the very tensor that came

    def wrap(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or isinstance(value, Pretend):
            return value
        return known[id(value)] if id(value) in known else Pretend(value)

    return tree_map(wrap, out)


def _check_devices(func: Any, args: Any, kwargs: dict[str, Any], wrapped: list[Pretend]) -> None:
    tensors = [t for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor)]
    plain = [t for t in tensors if not isinstance(t, Pretend) and t.device.type == "cpu" and t.dim() > 0]
    if func in INDEXED:
        plain = _indexed(func, args, plain)
    if wrapped and plain and func not in ACROSS:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found {NAME}:0 and cpu ({func})"
        )


def _indexed(func: Any, args: Any, plain: list[torch.Tensor]) -> list[torch.Tensor]:
    indices = [i for i in args[1] if i is not None]
    if not isinstance(args[0], Pretend):
        raise RuntimeError(f"indices should be on cpu, as the indexed tensor is, not on {NAME} ({func})")
    for i in indices:
        if not isinstance(i, Pretend):
            _log("to device", i)
        if i.dtype in (torch.bool, torch.uint8):
            _log("index by mask")
    return [t for t in plain if not any(t is i for i in indices)]


def _log_waits(func: Any, args: Any, kwargs: dict[str, Any], there: bool) -> None:
    if func in SYNCS or (func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None):
        _log(func._schema.name.split("::")[1])
    elif func is aten.copy_.default and isinstance(args[0], Pretend) != isinstance(args[1], Pretend):
        _log("to host" if isinstance(args[1], Pretend) else "to device", args[1])
    elif (
        func is aten._to_copy.default
        and kwargs.get("device") is not None
        and there != isinstance(args[0], Pretend)
    ):
        _log("to device" if there else "to host", args[0])


_LIBRARY: list[torch.library.Library] = []


def _on_cpu_first(make: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.tensor` fills its result below the wrapper's reach."""

    def made(*args: Any, device: Any = None, **kwargs: Any) -> Any:
        there = device is not None and torch.device(device).type == NAME
        result = make(*args, device="cpu" if there else device, **kwargs)
        return result.to(NAME) if there else result

    return made


def install() -> None:
    """Make device `pretend`, for the rest of the process."""
    if _LIBRARY:
        return
    _DEVICE._device_constructors()  # cached with the real torch.tensor, or `with device("meta")` misses it
    torch.tensor, torch.as_tensor = _on_cpu_first(torch.tensor), _on_cpu_first(torch.as_tensor)
    _BACKEND._setup_privateuseone_for_python_backend(NAME)
    _LIBRARY.append(torch.library.Library("_", "IMPL"))
    _LIBRARY[0].fallback(_kernel, "PrivateUse1")
    _LIBRARY.append(torch.library.Library("aten", "IMPL"))
    for name in MADE_BY_RESIZING:
        packet, _, overload = name.partition(".")
        func = getattr(getattr(aten, packet), overload or "default")
        _LIBRARY[1].impl(name, partial(_kernel, func), "PrivateUse1")


def _kernel(func: Any, *args: Any, **kwargs: Any) -> Any:
    return _run(func, args, kwargs)


def table() -> list[tuple[str, str, int, int]]:
    """Of the log: (kind, line, times, bytes)."""
    times, n_bytes = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for event in LOG:
        times[event.kind, event.line] += 1
        n_bytes[event.kind, event.line] += event.n_bytes
    return [(*key, times[key], n_bytes[key]) for key in sorted(times)]
