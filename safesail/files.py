"""Files and folders that appear whole or not at all."""

import ctypes
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from safesail.errors import ConfigError, DataError


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
        _prepare(path)
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
def scratch_folder(path: Path) -> Generator[Path, None, None]:
    """A new private folder beside `path`, on the same disk, that is gone when the block ends.

    Raises:
        DataError: the disk is full, or the place cannot be written to.
    """
    with _as_data_error(path):
        _prepare(path)
        scratch = Path(tempfile.mkdtemp(_SUFFIX, _prefix(path), path.parent))
        try:
            yield scratch
        finally:
            remove(scratch)


@contextmanager
def whole_folder(
    path: Path, *, replace: bool = False, resume: type[Exception] | None = None
) -> Generator[Path, None, None]:
    """A private folder beside `path` to fill; it becomes `path` when the block ends well.

    Args:
        path: The folder to appear.
        replace: What is at `path` goes when the new folder is there. Else `path` must not exist.
        resume: After an error of this class what the folder holds is kept, and the next call for the same path goes
            on with it. Without it every call gets a new folder.

    Raises:
        DataError: the disk is full, the place cannot be written to, or `path` exists.
    """
    with _as_data_error(path):
        _prepare(path)
        if resume is None:
            partial = Path(tempfile.mkdtemp(_SUFFIX, _prefix(path), path.parent))
        else:
            partial = path.with_name(f".{path.name}{_SUFFIX}")
            claim(partial)
        try:
            yield partial
            for file in partial.rglob("*"):
                if file.is_file():
                    _sync(file)
            if path.exists() and not replace:
                raise DataError(f"{path} is there already; choose another name, or remove it")
            partial.chmod(0o777 & ~_umask())
            _put(partial, path)
        except BaseException as error:
            if resume is None or not isinstance(error, resume):
                remove(partial)
            raise


PLOTS = (".png", ".svg", ".pdf")
"""Endings of plots that are written."""


def check_plot(path: Path) -> None:
    """Raises ConfigError where no plot can be written to a file of this name: before the work that it would show."""
    if path.suffix.lower() not in PLOTS:
        raise ConfigError(f"{path}: a plot is written as {', '.join(PLOTS)}; name such a file")


def restore(path: Path) -> None:
    """Bring back what a process that was killed while it replaced the folder `path` had put aside."""
    with suppress(OSError):
        if not path.exists() and path.parent.is_dir():
            _sweep(path)


def remove(path: Path) -> None:
    """Remove a file, a link (never what it points to) or a folder with all in it, where there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


_SUFFIX, _ASIDE = ".partial", ".old"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def _prepare(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)


def _put(partial: Path, path: Path) -> None:
    """Rename `partial` to `path`, and remove what was there."""
    if not path.exists():
        partial.rename(path)
    elif _exchange(partial, path):
        remove(partial)
    else:
        # Between the two renames a kill leaves no `path`: `restore` and the next writer bring it back.
        aside = path.with_name(f"{_prefix(path)}{_ASIDE}")
        path.rename(aside)
        partial.rename(path)
        remove(aside)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two names in one step, so that nobody ever sees neither; False where the system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    return renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0


def claim(folder: Path) -> None:
    """Make `folder`, or take the one that is there: nobody else can write to it, and below it are plain files only."""
    with suppress(FileNotFoundError):
        info = folder.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
            remove(folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    for entry in folder.iterdir():
        info = entry.lstat()
        if stat.S_ISDIR(info.st_mode):
            claim(entry)
        # A link, of either kind, would be written through.
        elif not stat.S_ISREG(info.st_mode) or info.st_nlink > 1:
            remove(entry)


def _prefix(path: Path) -> str:
    """With the process in it, so that what a dead one left can be told from what a living one writes."""
    return f".{path.name}.{os.getpid()}-"


def _sweep(path: Path) -> None:
    """Remove what killed processes left of `path`; what they had put aside comes back where `path` is missing."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.(\d+)(?:-[^.]*)?\.(partial|new|old)")
    for entry in path.parent.iterdir():
        match = ours.fullmatch(entry.name)
        if match is None or _alive(int(match[1])):
            continue
        if match[2] == "old" and not path.exists():
            entry.rename(path)
        else:
            remove(entry)


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
