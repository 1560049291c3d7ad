"""A catalog to read: a store, or a release of somebody, opened the same way."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from safesail.catalog.verify import open_manifest, release_folder
from safesail.files import restore
from safesail.store.connection import Db, open_reader


def is_release(path: Path) -> bool:
    """Is `path` meant as a release (a folder or a zip), and not as a store?"""
    return path.is_dir() or path.suffix == ".zip"


@contextmanager
def open_source(path: Path) -> Generator[Db, None, None]:
    """A store, read-only, or a release (folder or zip): verified, and read where it lies.

    Raises:
        NotFoundError: neither is there.
        DataError: it is damaged.
    """
    restore(path)
    if is_release(path):
        folder, manifest = release_folder(path)
        with open_manifest(folder, manifest) as db:
            yield db
        return
    with open_reader(path) as db:
        yield db
