"""The digest of an SAE's weights as they lie in a safetensors file, without torch."""

import hashlib
import json
import math
import struct
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np

from safesail.errors import SaeError

MAX_HEADER = 2**20
_BLOCK = 2**22
"""Values that are read at a time."""

_KINDS = {"F64": ("<f8", 8), "F32": ("<f4", 4), "F16": ("<f2", 2), "BF16": ("<u2", 2)}


def stored_sha256(path: Path) -> str:
    """As `weights_sha256` of the loaded weights: over names, shapes and float32 values, in the order of the names.

    Equal to it for architectures whose weights SAELens loads as they are stored, which are those that this project
    writes.

    Raises:
        SaeError: no sound safetensors file.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > MAX_HEADER:
                raise SaeError(f"{path} is no safetensors file")
            header = json.loads(stream.read(length))
            for name in sorted(set(header) - {"__metadata__"}):
                entry = header[name]
                shape = tuple(int(n) for n in entry["shape"])
                digest.update(f"{name}{shape}".encode())
                first, last = entry["data_offsets"]
                kind, width = _KINDS[entry["dtype"]]
                if last - first != math.prod(shape) * width:
                    raise SaeError(f"{path}: {name} has another size than its shape")
                stream.seek(8 + length + first)
                for block in _blocks(stream.read, last - first, kind, width):
                    digest.update(block)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise SaeError(f"{path} is no sound safetensors file ({type(error).__name__})") from error
    return digest.hexdigest()


def _blocks(
    read: Callable[[int], bytes], n_bytes: int, kind: str, width: int
) -> Generator[bytes, None, None]:
    """Values as little-endian float32, some at a time."""
    while n_bytes:
        content = read(min(n_bytes, _BLOCK * width))
        if not content:
            raise SaeError("the file ends before its last weight")
        n_bytes -= len(content)
        values = np.frombuffer(content, kind)
        # bfloat16 is the upper half of a float32.
        values = (values.astype("<u4") << 16).view("<f4") if kind == "<u2" else values.astype("<f4")
        yield values.tobytes()
