"""Addresses of pages: of a server by queries, of an export by files relative to the page they stand on."""

import hashlib
import re
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote, urlencode

from safesail.domain.ids import FeatureId

PAGES = ("index", "saes", "map", "costs")
"""Names of the pages that there is one of."""


class Links(Protocol):
    """Where things are, from the page that is being rendered."""

    @property
    def exported(self) -> bool:
        """Whether the page is a file."""
        ...

    def page(self, name: str) -> str:
        """One of `PAGES`."""
        ...

    def feature(self, sae_id: str, index: int) -> str:
        """The page of a feature."""
        ...

    def has(self, sae_id: str, index: int) -> bool:
        """Whether a feature has a page."""
        ...

    def static(self, name: str) -> str:
        """A script or stylesheet of ours."""
        ...

    def data(self, name: str) -> str:
        """A script that brings data, such as `points.js`."""
        ...


def listing(**asked: object) -> str:
    """The query of a list of features, those of its fields that are set; "" for none."""
    given = {name: str(value) for name, value in asked.items() if value not in (None, "")}
    return f"?{urlencode(given)}" if given else ""


class ServerLinks:
    """Of the server; absolute on it."""

    exported = False

    def page(self, name: str) -> str:
        """One of `PAGES`."""
        return "/" if name == "index" else f"/{name}"

    def feature(self, sae_id: str, index: int) -> str:
        """By query: a name may hold slashes, dots and anything else."""
        return f"/feature?sae={quote(sae_id, safe='')}&index={index}"

    def has(self, sae_id: str, index: int) -> bool:
        """Every feature has."""
        return True

    def static(self, name: str) -> str:
        """Below `/static`."""
        return f"/static/{name}"

    def data(self, name: str) -> str:
        """Below `/data`."""
        return f"/data/{name}"


@dataclass(frozen=True)
class FileLinks:
    """Of an export; relative, so that it may lie anywhere."""

    depth: int = 0
    """Folders between the page and the export's root."""

    known: frozenset[tuple[str, int]] = frozenset()
    """Features that have a page."""

    exported = True

    @property
    def _root(self) -> str:
        return "../" * self.depth

    def page(self, name: str) -> str:
        """A file in the root."""
        return f"{self._root}{name}.html"

    def feature(self, sae_id: str, index: int) -> str:
        """A file in its SAE's folder."""
        return f"{self._root}{feature_file(FeatureId(sae_id, index))}"

    def has(self, sae_id: str, index: int) -> bool:
        """Those have that were written."""
        return (sae_id, index) in self.known

    def below(self, depth: int) -> "FileLinks":
        """The same from a page so many folders down."""
        return FileLinks(depth, self.known)

    def static(self, name: str) -> str:
        """Below `static`."""
        return f"{self._root}static/{name}"

    def data(self, name: str) -> str:
        """Below `data`."""
        return f"{self._root}data/{name}"


def sae_folder(sae_id: str) -> str:
    """A folder for an SAE of any name: what is readable of it, and a digest that keeps two apart."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", sae_id).strip("-")[:48] or "sae"
    return f"{plain}-{hashlib.sha256(sae_id.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def feature_file(feature: FeatureId) -> str:
    """Path of a feature's page below an export's root."""
    return f"features/{sae_folder(feature.sae_id)}/{feature.index}.html"
