"""Files and folders that appear whole or not at all."""

import os
import re
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from safesail.errors import DataError


@contextmanager
def whole_file(path: Path, *, private: bool = False) -> Generator[Path, None, None]:
    """A new empty file beside `path` to write to; it takes the place of `path` when the block ends well.

    When the block fails the file is gone and `path` is as it was. What a killed process left behind is removed by
    the next one that writes the same path.

    Args:
        path: The file to appear. Its folder is made.
        private: Readable by its owner alone, for what holds answers, prompts or keys.

    Raises:
        DataError: the disk is full, or the place cannot be written to.
    """
    with _as_data_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        # mkstemp opens with O_EXCL: a link planted under a guessed name is never followed.
        descriptor, name = tempfile.mkstemp(_SUFFIX, _prefix(path), path.parent)
        os.close(descriptor)
        partial = Path(name)
        try:
            yield partial
            _sync(partial)
            partial.chmod(0o600 if private else 0o666 & ~_umask())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Generator[Path, None, None]:
    """A new empty folder beside `path` to fill; it becomes `path`, which must not exist, when the block ends well.

    Raises:
        DataError: the disk is full, the place cannot be written to, or `path` exists.
    """
    with _as_data_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        partial = Path(tempfile.mkdtemp(_SUFFIX, _prefix(path), path.parent))
        try:
            yield partial
            partial.chmod(0o777 & ~_umask())
            if path.exists():
                raise DataError(f"{path} is there already; choose another name, or remove it")
            partial.rename(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


_SUFFIX = ".partial"


def _prefix(path: Path) -> str:
    """With the process in it, so that what a dead one left can be told from what a living one writes."""
    return f".{path.name}.{os.getpid()}-"


def _sweep(path: Path) -> None:
    """Remove what killed processes left of `path`."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.(\d+)-[^.]*{re.escape(_SUFFIX)}")
    for left in path.parent.iterdir():
        match = ours.fullmatch(left.name)
        if match is None or _alive(int(match.group(1))):
            continue
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with suppress(OSError):
                left.unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _sync(path: Path) -> None:
    """A file that is renamed before it is on the disk may be empty after a power cut."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def _as_data_error(path: Path) -> Generator[None, None, None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error
