"""Public catalogs that are known (`data/catalogs.yaml`), and which of them describe an SAE."""

import re
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from safesail.catalog.config import Format
from safesail.catalog.mirror import is_plain_path
from safesail.domain.config import Config, load_yaml
from safesail.errors import ConfigError, meant
from safesail.resources import resource_dir
from safesail.sae.directory import Candidate, candidate, read_directory

NEURONPEDIA = "neuronpedia"
_SOURCE = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class KnownCatalog(Config):
    """A catalog that somebody publishes."""

    name: str
    title: str
    page: str
    """Where people read about it."""

    layout: Literal["neuronpedia", "files"]
    """A bucket with a folder per SAE, or a list of files."""

    address: str
    licence: str
    size: str
    """For people."""

    note: str | None = None
    format: Format | None = None
    """Of the files."""

    files: tuple[str, ...] = ()
    """Below the address."""

    roots: tuple[str, ...] = ()
    """What the importer is given: files or folders; none: the files."""

    describes: tuple[str, ...] = ()
    """SAEs by their Neuronpedia ids, as the catalog itself names them."""

    options: dict[str, Any] = Field(default_factory=dict)
    """What the catalog does not say of itself: settings of `ImportOptions`."""

    @field_validator("files", "roots")
    @classmethod
    def _plain(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        if odd := [path for path in paths if not is_plain_path(path)]:
            raise ValueError(f"{odd[0]!r} is no plain path")
        return paths


@dataclass(frozen=True)
class PublicSource:
    """What `safesail catalog download` takes, and what it is about."""

    source: str
    model: str | None
    sae: str | None
    """`release/id` of SAELens' directory; None: it lists no such SAE."""

    layer: int | None
    width: int | None
    hook: str | None
    licence: str
    size: str
    title: str


@dataclass(frozen=True)
class Match:
    """A source that describes an SAE, or says so."""

    source: str
    proven: bool
    why: str


@cache
def known_catalogs() -> dict[str, KnownCatalog]:
    """All known catalogs by name.

    Raises:
        ConfigError: the file has a wrong or unknown setting.
    """
    path = resource_dir("data") / "catalogs.yaml"
    entries = load_yaml(path).get("catalogs")
    if not isinstance(entries, dict):
        raise ConfigError(f"{path}: needs a mapping `catalogs`")
    return {
        name: KnownCatalog.read({"name": name, **entry}, f"{path}: {name}") for name, entry in entries.items()
    }


@cache
def neuronpedia_saes() -> dict[str, list[Candidate]]:
    """SAEs of SAELens' directory by their Neuronpedia id, such as `gemma-2-2b/20-gemmascope-res-16k`."""
    listed: dict[str, list[Candidate]] = {}
    for release, entry in read_directory().items():
        for sae in entry.get("saes", []):
            if isinstance(sae, dict) and isinstance(sae.get("neuronpedia"), str):
                listed.setdefault(sae["neuronpedia"], []).append(candidate(release, sae))
    return listed


def find_source(text: str) -> tuple[KnownCatalog, str] | None:
    """The catalog that a source such as `neuronpedia:gemma-2-2b/20-gemmascope-res-16k` names, and the part of it.

    Returns:
        None where it names no known catalog: then it is an address or a path.

    Raises:
        ConfigError: the catalog is known, and has no such part.
    """
    catalogs = known_catalogs()
    if text in catalogs and catalogs[text].layout == "files":
        return catalogs[text], ""
    name, _, part = text.partition(":")
    if name in catalogs and catalogs[name].layout == NEURONPEDIA:
        if not _SOURCE.fullmatch(part) or ".." in part:
            raise ConfigError(
                f"{text!r} is not {name}:MODEL/SOURCE, as in {name}:gemma-2-2b/20-gemmascope-res-16k;"
                f" `safesail catalog sources --model MODEL` lists them"
            )
        return catalogs[name], part
    if any(known.partition(":")[0] == name for known in catalogs):
        raise ConfigError(f"no catalog {text!r}; {meant(text, catalogs)}")
    return None


def list_sources(model: str | None = None) -> list[PublicSource]:
    """Sources one by one, of one model or of all."""
    listed = [*_file_sources(), *_neuronpedia_sources()]
    if model is None:
        return listed
    names = _names_of(model)
    chosen = [source for source in listed if source.model is not None and _plain_name(source.model) in names]
    if not chosen:
        known = {source.model for source in listed if source.model is not None}
        raise ConfigError(f"no public catalog is known for the model {model!r}; {meant(model, known)}")
    return chosen


def count_sources(sources: Sequence[PublicSource]) -> list[dict[str, Any]]:
    """One row per catalog and model, for an overview."""
    counts = Counter((s.source.partition("/")[0], s.model, s.licence, s.size, s.title) for s in sources)
    return [
        {"source": source + ("/..." if source.startswith(f"{NEURONPEDIA}:") else ""), "model": model, "SAEs": n,
         "licence": licence, "size": size, "what": title}
        for (source, model, licence, size, title), n in counts.items()
    ]  # fmt: skip


def sources_for(spec: str, *, stated: Sequence[str] = (), twins: Sequence[str] = ()) -> list[Match]:
    """Sources that describe an SAE.

    Args:
        spec: `release/id` of SAELens' directory, a Neuronpedia id, or the name of a folder.
        stated: Neuronpedia ids that the SAE's own settings state; anybody can write them, so they prove nothing.
        twins: `release/id`s whose weights have been seen to be this SAE's.

    Returns:
        What is proven first.
    """
    listed: dict[str, Match] = {}
    for neuronpedia_id, saes in neuronpedia_saes().items():
        for name in (f"{sae.release}/{sae.sae_id}" for sae in saes):
            if name == spec:
                why = f"SAELens' directory: {name} is Neuronpedia's {neuronpedia_id}"
            elif name in twins:
                why = f"the weights are those of {name}, which SAELens' directory ties to {neuronpedia_id}"
            else:
                continue
            listed |= {m.source: m for m in _matches(neuronpedia_id, why, proven=True)}
    if spec in neuronpedia_saes():
        listed |= {m.source: m for m in _matches(spec, "named by its Neuronpedia id", proven=True)}
    for neuronpedia_id in stated:
        why = f"its own settings name {neuronpedia_id}; nothing proves it"
        listed = {m.source: m for m in _matches(neuronpedia_id, why, proven=False)} | listed
    return sorted(listed.values(), key=lambda match: not match.proven)


def _matches(neuronpedia_id: str, why: str, *, proven: bool) -> Generator[Match, None, None]:
    yield Match(f"{NEURONPEDIA}:{neuronpedia_id}", proven, why)
    for known in known_catalogs().values():
        if neuronpedia_id in known.describes:
            yield Match(known.name, proven, why)


def _file_sources() -> Generator[PublicSource, None, None]:
    for known in known_catalogs().values():
        if known.layout == "files":
            model = known.options.get("model") or known.name.partition(":")[2]
            yield PublicSource(
                known.name, model, None, None, known.options.get("d_sae"), known.options.get("hook"),
                known.licence, known.size, known.title,
            )  # fmt: skip


def _neuronpedia_sources() -> Generator[PublicSource, None, None]:
    known = known_catalogs()[NEURONPEDIA]
    for neuronpedia_id, saes in neuronpedia_saes().items():
        sae = saes[0]
        yield PublicSource(
            f"{NEURONPEDIA}:{neuronpedia_id}", neuronpedia_id.partition("/")[0], f"{sae.release}/{sae.sae_id}",
            sae.layer, sae.width, sae.hook, known.licence, known.size, known.title,
        )  # fmt: skip


def _names_of(model: str) -> set[str]:
    """Names under which a model is known: its alias, its repository's name, and what directories make of it."""
    from safesail.subject.aliases import resolve

    alias = resolve(model)
    names = {model, Path(model).name}
    if alias is not None:
        names |= {alias.name, alias.hub_id, alias.hub_id.partition("/")[2]}
        by_release = {
            str(neuronpedia_id).partition("/")[0]
            for neuronpedia_id, saes in neuronpedia_saes().items()
            if any(sae.release in alias.releases for sae in saes)
        }
        names |= by_release
    return {_plain_name(name) for name in names}


def _plain_name(model: str) -> str:
    return model.lower().replace("_", "-")
