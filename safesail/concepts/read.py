"""Reading concept sets: YAML, CSV and JSONL into records."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, StringConstraints

from safesail.domain.config import Config, load_yaml
from safesail.domain.ids import content_id
from safesail.domain.records import Concept, ConceptPair
from safesail.errors import ConfigError
from safesail.resources import expand
from safesail.text.rows import read_rows

BUNDLED_CONCEPTS = "bundled:data/concepts"

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Id = Annotated[str, StringConstraints(pattern=r"^[^\s.]+(\.[^\s.]+)*$")]
Form = Literal["statement", "question", "request", "news", "dialogue"]
FORMS: tuple[Form, ...] = get_args(Form)
SUFFIXES = (".yaml", ".yml", ".csv", ".jsonl")


class _PairEntry(Config):
    pos: Text
    neg: Text
    lang: Text = "en"
    form: Form = "statement"


class _ConceptEntry(Config):
    id: Id
    leaf: Text | None = None
    name: Text
    definition: Text
    keywords: dict[str, tuple[Text, ...]] = Field(default_factory=dict)
    pairs: tuple[dict[str, Any], ...]


class _ConceptFile(Config):
    domain: Id
    licence: Text
    provenance: Text
    concepts: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class SourcedConcept(Concept):
    """A concept as its file gives it, with what only the check of pairs reads."""

    keywords: Mapping[str, tuple[str, ...]]
    """By language, words that carry the concept and so may not stand in q-; a trailing `*` takes any ending."""

    source: str
    """File that it came from."""


def read_concepts(sources: Iterable[str | Path]) -> tuple[SourcedConcept, ...]:
    """All concepts of files and folders (YAML, CSV, JSONL; see the README here), in the files' order.

    Raises:
        ConfigError: nothing to read, or a wrong entry: the message names file, concept and pair.
    """
    concepts: dict[str, SourcedConcept] = {}
    for path in _files(sources):
        for concept in _read(path):
            if other := concepts.get(concept.concept_id):
                where = "twice there" if other.source == concept.source else f"also in {other.source}"
                raise ConfigError(f"{path}: concept {concept.concept_id!r} is {where}; ids must be unique")
            concepts[concept.concept_id] = concept
    if not concepts:
        raise ConfigError("the concept set is empty; name a file or folder with concept pairs")
    return tuple(concepts.values())


def load_concepts(sources: Sequence[str], domains: Sequence[str] = ()) -> list[Concept]:
    """Concept sets, the bundled ones where none is named, narrowed to `domains` where some are.

    Raises:
        ConfigError: a set is wrong, or has no concept of a domain.
    """
    concepts = read_concepts([expand(source) for source in sources or (BUNDLED_CONCEPTS,)])
    if missing := sorted(set(domains) - {c.domain for c in concepts}):
        known = ", ".join(sorted({c.domain for c in concepts}))
        raise ConfigError(f"no concept of domain {missing[0]!r}; there are {known}")
    return [c for c in concepts if not domains or c.domain in domains]


def pair_id(concept_id: str, lang: str, pos: str, neg: str) -> str:
    """Identity of a pair, by its content."""
    return content_id("\x1f".join((concept_id, lang, pos, neg)))


def concept_set_hash(concepts: Sequence[Concept]) -> str:
    """Identity of all pairs with the concepts and domains they belong to, whatever their order."""
    keys = sorted(f"{c.domain}/{c.concept_id}/{p.form}/{p.pair_id}" for c in concepts for p in c.pairs)
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]


def _files(sources: Iterable[str | Path]) -> Iterator[Path]:
    for source in map(Path, sources):
        files = sorted(p for p in source.iterdir() if p.suffix in SUFFIXES) if source.is_dir() else [source]
        if not files:
            raise ConfigError(f"{source} holds no concept set; expected {', '.join(SUFFIXES)} files")
        if files[0].suffix not in SUFFIXES:
            raise ConfigError(f"{source}: a concept set is a folder or a file in {', '.join(SUFFIXES)}")
        if not files[0].is_file():
            raise ConfigError(f"no concept set at {source}")
        yield from files


def _read(path: Path) -> Iterator[SourcedConcept]:
    if path.suffix in (".yaml", ".yml"):
        file = _ConceptFile.read(load_yaml(path), str(path))
        for number, values in enumerate(file.concepts, 1):
            yield _concept(values, file.domain, path, f"concept {values.get('id', f'number {number}')}")
    else:
        yield from _from_rows(path)


def _from_rows(path: Path) -> Iterator[SourcedConcept]:
    """One pair per row; rows of one `concept` belong together wherever they stand."""
    concepts: dict[str, dict[str, Any]] = defaultdict(lambda: {"pairs": []})
    for number, row in _rows(path):
        if not (concept_id := str(row.pop("concept", None) or "").strip()):
            raise ConfigError(f"{path}: row {number} names no `concept`")
        concept = concepts[concept_id]
        for key in ("domain", "leaf", "name", "definition", "keywords"):
            if value := row.pop(key, None):
                concept.setdefault(key, value)
        concept["pairs"].append(row)
    for concept_id, values in concepts.items():
        domain = str(values.pop("domain", "") or concept_id.split(".")[0])
        name = values.pop("name", concept_id.split(".")[-1].replace("_", " "))
        keywords = _keywords(values.pop("keywords", ()))
        values = {"id": concept_id, "name": name, "definition": name, "keywords": keywords, **values}
        yield _concept(values, domain, path, f"concept {concept_id}")


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a CSV or JSONL file, numbered from 1; an empty cell says nothing, except as a side of a pair."""
    for number, row in enumerate(read_rows(path), 1):
        if path.suffix == ".csv" and (None in row or None in row.values()):
            raise ConfigError(f"{path}: row {number} has more or fewer cells than the header")
        yield number, {k.strip(): v for k, v in row.items() if v or k.strip() in ("pos", "neg")}


def _keywords(value: Any) -> dict[str, Any]:
    """`a; b` of a CSV cell, or a list: English; a mapping: by language."""
    if isinstance(value, Mapping):
        return dict(value)
    words = value.split(";") if isinstance(value, str) else list(value)
    return {"en": [word for word in words if str(word).strip()]} if words else {}


def _concept(values: Mapping[str, Any], domain: str, path: Path, where: str) -> SourcedConcept:
    entry = _ConceptEntry.read(values, f"{path}: {where}")
    pairs = tuple(
        _pair(pair, entry.id, f"{path}: {where}, pair {number}") for number, pair in enumerate(entry.pairs, 1)
    )
    if len(pairs) < 2:
        raise ConfigError(f"{path}: {where} has {len(pairs)} pair(s); a contrast needs at least 2")
    first: dict[str, int] = {}
    for number, pair in enumerate(pairs, 1):
        if (before := first.setdefault(pair.pair_id, number)) != number:
            raise ConfigError(f"{path}: {where}, pair {number} repeats pair {before}; leave one out")
    return SourcedConcept(
        entry.id, domain, entry.leaf, entry.name, entry.definition, pairs, entry.keywords, str(path)
    )


def _pair(values: Mapping[str, Any], concept_id: str, where: str) -> ConceptPair:
    for side in ("pos", "neg"):
        if isinstance(text := values.get(side), str) and not text.strip():
            raise ConfigError(f"{where}: {side} is empty; write the text")
    pair = _PairEntry.read(values, where)
    return ConceptPair(
        pair_id(concept_id, pair.lang, pair.pos, pair.neg), pair.lang, pair.form, pair.pos, pair.neg
    )
