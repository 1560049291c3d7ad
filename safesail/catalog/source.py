"""A catalog to read: a store, or a release of somebody, opened the same way."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from safesail.catalog.format import MANIFEST
from safesail.catalog.importing import import_release, opened_release
from safesail.errors import NotFoundError
from safesail.store.connection import Db, open_memory, open_reader


@contextmanager
def open_source(path: Path) -> Generator[Db, None, None]:
    """A store, read-only, or a release (folder or zip), verified and held in memory.

    Raises:
        NotFoundError: neither is there.
        DataError: it is damaged.
    """
    if path.is_dir() and not (path / MANIFEST).is_file():
        raise NotFoundError(f"{path} is a folder without {MANIFEST}; name a store, or a catalog release")
    if path.is_dir() or path.suffix == ".zip":
        with opened_release(path) as (folder, manifest), open_memory() as db:
            import_release(db, folder, manifest, manifest.name)
            yield db
        return
    with open_reader(path) as db:
        yield db
