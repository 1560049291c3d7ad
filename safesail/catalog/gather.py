"""What an importer collects: rows in the tables of the release format, and the faults it met."""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from safesail.catalog.config import ImportOptions
from safesail.catalog.format import TABLES
from safesail.catalog.identity import Identity
from safesail.domain.ids import FeatureId, content_id
from safesail.domain.records import NOT_STATED, SaeRecord, SubjectInfo
from safesail.domain.text import clean_text
from safesail.errors import ConfigError, DataError
from safesail.store.arrow import ArrowTable

BATCH = 50_000
BATCH_WINDOWS = 1_000
"""Rows with a hundred tokens each are closed sooner."""

PENDING_ROWS = 20_000
"""Rows that wait in memory before they are handed on."""

MASK = "***"
EMPTY = "EmptyExplanation"
"""Stored as the error of an explanation that its source lists without a text."""

N_EXAMPLES = 3
MAX_EXEMPLARS = 20
WINDOW_BYTES = 8
"""Of a window's `content_id`."""


@dataclass(frozen=True)
class Fault:
    """One kind of fault in a catalog."""

    kind: str
    n: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Refused:
    """A file of which nothing was taken, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class ImportReport:
    """What an import brought, and what was wrong with it."""

    name: str
    format: str
    sha256: str
    rows: dict[str, int]
    """Rows that the catalog holds, by table."""

    new: dict[str, int]
    """Rows that the store did not have."""

    faults: tuple[Fault, ...]
    refused: tuple[Refused, ...] = ()
    """Files of which nothing was taken."""

    identities: tuple[Identity, ...] = ()
    """SAEs that the store has under another name than the catalog."""

    provenance: dict[str, str] = field(default_factory=dict)
    """Where it came from: source, address, licence; empty for a file of the user's own."""

    def fault(self, kind: str) -> int:
        """How often a kind of fault was met."""
        return next((f.n for f in self.faults if f.kind == kind), 0)


@dataclass
class Gathered:
    """Rows and faults of one catalog, in the order in which they were met."""

    options: ImportOptions
    tolerant: bool = False
    """A faulty file is left out and named, instead of ending the import."""

    hand_on: Callable[["Gathered"], None] | None = None
    """Called between files once many rows wait; takes them away with `take`."""

    aliases: Mapping[str, SaeRecord] = field(default_factory=dict)
    """SAEs that the store knows, by the id that a catalog gives them, where both have been proven to be one."""

    models: dict[str, SubjectInfo] = field(default_factory=dict)
    saes: dict[str, SaeRecord] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    """Rows so far, by table."""

    refused: list[Refused] = field(default_factory=list)
    _batches: dict[str, list[ArrowTable]] = field(default_factory=lambda: {name: [] for name in TABLES})
    _rows: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {name: [] for name in TABLES})
    _faults: Counter[str] = field(default_factory=Counter)
    _examples: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _windows: defaultdict[FeatureId, bytearray] = field(default_factory=lambda: defaultdict(bytearray))
    """Eight bytes for each window of a feature, by which it is known again."""

    _seen: set[str] = field(default_factory=set)
    _ordinal: int = 0
    _undo: list[Callable[[], object]] | None = None
    """Within a file that may be left out: what takes back what it added."""

    @contextmanager
    def file(self, name: str) -> Generator[None, None, None]:
        """Rows of one file: all of them, or, with `tolerant`, none and a line that says why."""
        self._close_all()
        self._undo = [] if self.tolerant else None
        before = {table: len(batches) for table, batches in self._batches.items()}
        counts, faults, saes = self.counts.copy(), self._faults.copy(), set(self.saes)
        try:
            yield
        except DataError as error:
            if not self.tolerant:
                raise
            for undo in reversed(self._undo or ()):
                undo()
            for table, n in before.items():
                del self._batches[table][n:]
                self._rows[table] = []
            for sae_id in set(self.saes) - saes:
                del self.saes[sae_id]
            self.counts, self._faults = counts, faults
            self.refused.append(Refused(name, str(error)))
        self._undo = None
        waiting = sum(len(rows) for rows in self._rows.values())
        waiting += sum(batch.num_rows for batches in self._batches.values() for batch in batches)
        if self.hand_on is not None and waiting >= PENDING_ROWS:
            self.hand_on(self)

    def _first(self, key: str) -> bool:
        """Is it the first time that this is met?"""
        if key in self._seen:
            return False
        self._seen.add(key)
        if self._undo is not None:
            self._undo.append(lambda: self._seen.discard(key))
        return True

    def fault(self, kind: str, example: str) -> None:
        """Count a fault."""
        self._faults[kind] += 1
        if len(self._examples[kind]) < N_EXAMPLES:
            self._examples[kind].append(example[:100])

    def faults(self) -> tuple[Fault, ...]:
        """All faults, by kind."""
        return tuple(Fault(kind, n, tuple(self._examples[kind])) for kind, n in sorted(self._faults.items()))

    def _add(self, table: str, feature: FeatureId, **cells: Any) -> None:
        """Append a row; cells left out are null."""
        self._rows[table].append({"sae_id": feature.sae_id, "index": feature.index, **cells})
        self.counts[table] += 1
        if len(self._rows[table]) >= (BATCH_WINDOWS if table == "exemplars" else BATCH):
            self._close(table)

    def model_of(self, where: str, stated: str | None = None) -> str:
        """The subject model, by the catalog or by the options.

        Args:
            where: Names the row or file in errors.
            stated: What the catalog says there.

        Raises:
            ConfigError: neither says it.
            DataError: they say two things.
        """
        model = stated or self.options.model
        if model is None:
            raise ConfigError(f"{where} does not say which model it explains; name it with --model")
        if self.options.model not in (None, model):
            raise DataError(f"{where} is about {model!r}, not {self.options.model!r}")
        return model

    def sae(self, source: str, *, layer: int | None, model: str, hook: str | None = None) -> str:
        """The id of an SAE that the catalog calls `source`; noted on first sight."""
        options = self.options
        names = {"model": model, "source": source, "layer": str(layer)}
        sae_id = _filled(options.sae or "{model}/{source}", names)
        if sae_id in self.aliases:
            known = self.aliases[sae_id]
            self.saes.setdefault(known.sae_id, known)
            return known.sae_id
        if sae_id not in self.saes:
            hook = _filled(options.hook, names) if options.hook else (hook or NOT_STATED)
            self.models.setdefault(model, SubjectInfo(model))
            self.saes[sae_id] = SaeRecord(
                sae_id, model, hook, options.d_in, options.d_sae, None, None, options.name, layer=layer
            )
        return sae_id

    def feature(self, feature: FeatureId, **statistics: Any) -> bool:
        """A feature; seen twice, its first statistics stand. Was it the first time?

        Raises:
            DataError: its SAE has no such feature.
        """
        width = self.saes[feature.sae_id].d_sae
        if self.tolerant and width is not None and feature.index >= width:
            raise DataError(
                f"index {feature.index:,} is beyond the SAE's width {width:,}; is it another SAE?"
            )
        first = self._first(str(feature))
        if first:
            layer = self.saes[feature.sae_id].layer
            self._add("features", feature, layer=layer, redacted=False, **statistics)
        return first

    def explanation(
        self, feature: FeatureId, text: str | None, *, lang: str | None = None, explainer: str | None = None
    ) -> str | None:
        """An explanation as its source has it; masked and empty ones are kept as such, and counted as faults.

        Returns:
            Its id, or None where the very same one was met before.
        """
        stripped = (text or "").strip()
        masked, empty = stripped == MASK, not stripped
        kind = "masked" if masked else "empty" if empty else "masked in part" if MASK in stripped else None
        if kind is not None:
            self.fault(kind, str(feature))
        if text is not None and clean_text(text) != text:
            self.fault("control characters", str(feature))
        readable = None if masked or empty else text
        explainer = explainer or self.options.explainer or NOT_STATED
        lang = lang or self.options.lang or "en"
        # Two catalogs that say the same of a feature keep a row each.
        identity = [feature.sae_id, feature.index, readable, explainer, lang, self.options.name]
        key = content_id(json.dumps(identity))
        if not self._first(key):
            self.fault("repeated", str(feature))
            return None
        self._add(
            "explanations", feature, explanation_id=key, text=readable, masked=masked, lang=lang, explainer=explainer,
            origin=self.options.name, error=EMPTY if empty else None, ordinal=self._next(),
            message=("null" if text is None else f"empty: {text!r}") if empty else None,
        )  # fmt: skip
        return key

    def score(
        self, feature: FeatureId, explanation_id: str, value: float | None, *, method: str, **more: Any
    ) -> None:
        """A score; one that is no correlation is kept as undefined, and counted as a fault."""
        if value is not None and not (math.isfinite(value) and abs(value) <= 1):
            self.fault("score outside [-1, 1]", f"{feature}: {value}")
            value, more = None, {**more, "reason": f"the source says {value}, which is no correlation"}
        self._add(
            "scores", feature, explanation_id=explanation_id, method=method, simulator=NOT_STATED, value=value,
            ordinal=self._next(), **more,
        )  # fmt: skip

    def tags(self, feature: FeatureId, tags: Iterable[str]) -> None:
        """Tags in their order; a repeated one counts once."""
        for position, tag in enumerate(tags, start=1):
            if self._first(f"{feature} {tag}"):
                self._add("tags", feature, position=position, tag=tag, source=self.options.name)

    def exemplar(self, feature: FeatureId, tokens: Sequence[str], values: Sequence[float]) -> None:
        """The next of the feature's strongest windows; it counts as shown to an explainer (split `train`).

        Windows in which it is silent, and those after the first `MAX_EXEMPLARS`, are passed over.
        """
        known = self._windows[feature]
        if max(values, default=0.0) <= 0 or len(known) == WINDOW_BYTES * MAX_EXEMPLARS:
            return
        document = content_id("".join(tokens))
        mark = bytes.fromhex(document)
        if any(bytes(known[at : at + WINDOW_BYTES]) == mark for at in range(0, len(known), WINDOW_BYTES)):
            self.fault("repeated window", str(feature))
            return
        known += mark
        if self._undo is not None:
            self._undo.append(lambda: known.__delitem__(slice(-WINDOW_BYTES, None)))
        self._add(
            "exemplars", feature, rank=len(known) // WINDOW_BYTES, split="train", document_id=document, start=0,
            maximum=max(values), tokens=list(tokens), activations=list(values),
        )  # fmt: skip

    def take(self) -> dict[str, list[ArrowTable]]:
        """The rows that wait, as batches of the release format's tables; they are no longer kept here."""
        self._close_all()
        batches, self._batches = self._batches, {name: [] for name in TABLES}
        return {name: [pa.concat_tables(batches)] for name, batches in batches.items() if batches}

    def _next(self) -> int:
        self._ordinal += 1
        return self._ordinal

    def _close_all(self) -> None:
        for table in TABLES:
            self._close(table)

    def _close(self, table: str) -> None:
        if self._rows[table]:
            self._batches[table].append(pa.Table.from_pylist(self._rows[table], schema=TABLES[table]))
            self._rows[table] = []


def _filled(template: str, names: dict[str, str]) -> str:
    """`template` with its `{model}`, `{source}` and `{layer}` filled in; nothing else in it means anything."""

    def fill(match: re.Match[str]) -> str:
        if match[1] not in names:
            raise ConfigError(f"{template!r} may hold {{{'}, {'.join(names)}}}, not {match[0]}")
        return names[match[1]]

    return re.sub(r"\{(.*?)\}", fill, template)
