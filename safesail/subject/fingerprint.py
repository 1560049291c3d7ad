"""Identity of a subject model's files."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from safesail.errors import DataError, SubjectError
from safesail.files import whole_file
from safesail.resources import cache_dir


def fingerprint(directory: Path, *, memory: Path | None = None) -> str:
    """SHA-256 over the names and contents of config.json and all weight files, in hex.

    Digests are remembered by path, size and modification time in `memory` (default: the user's cache),
    since reading gigabytes at every start would be slow.

    Raises:
        SubjectError: the directory holds no configuration or no weights.
    """
    files = weight_files(directory)
    if not files or not (directory / "config.json").is_file():
        raise SubjectError(f"{directory} holds no model: config.json and *.safetensors (or *.bin) are needed")
    memory = cache_dir() / "fingerprints.json" if memory is None else memory
    known = _recall(memory)
    total = hashlib.sha256()
    fresh = False
    for file in [directory / "config.json", *files]:
        state = file.stat()
        key = f"{file.resolve()}:{state.st_size}:{state.st_mtime_ns}"
        if key not in known:
            known[key] = sha256_of(file)
            fresh = True
        total.update(f"{file.name}:{known[key]}\n".encode())
    if fresh:
        _remember(memory, known)
    return total.hexdigest()


def weight_files(directory: Path) -> list[Path]:
    """Weight files of a Hugging Face directory in order of name; `*.safetensors` before any `*.bin`."""
    return sorted(directory.glob("*.safetensors")) or sorted(directory.glob("pytorch_model*.bin"))


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _recall(memory: Path) -> dict[str, str]:
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(memory: Path, known: dict[str, str]) -> None:
    # A cache that cannot be written only makes the next start slower.
    with suppress(DataError), whole_file(memory) as partial:
        partial.write_text(json.dumps(known, indent=0), encoding="utf-8")
