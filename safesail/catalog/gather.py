"""What an importer collects: rows in the tables of the release format, and the faults it met."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from safesail.catalog.config import ImportOptions
from safesail.catalog.format import TABLES
from safesail.domain.ids import FeatureId, content_id
from safesail.store.arrow import ArrowTable
from safesail.store.imports import NOT_STATED, ImportedModel, ImportedSae

BATCH = 50_000
MASK = "***"
EMPTY = "EmptyExplanation"
"""Stored as the error of an explanation that its source lists without a text."""

N_EXAMPLES = 3


@dataclass(frozen=True)
class Fault:
    """One kind of fault in a catalog."""

    kind: str
    n: int
    examples: tuple[str, ...]


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

    def fault(self, kind: str) -> int:
        """How often a kind of fault was met."""
        return next((f.n for f in self.faults if f.kind == kind), 0)


@dataclass
class Gathered:
    """Rows and faults of one catalog, in the order in which they were met."""

    options: ImportOptions
    models: dict[str, ImportedModel] = field(default_factory=dict)
    saes: dict[str, ImportedSae] = field(default_factory=dict)
    batches: dict[str, list[ArrowTable]] = field(default_factory=lambda: {name: [] for name in TABLES})
    _open: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)
    _examples: dict[str, list[str]] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)

    def fault(self, kind: str, example: str) -> None:
        """Count a fault."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        examples = self._examples.setdefault(kind, [])
        if len(examples) < N_EXAMPLES:
            examples.append(example[:100])

    def faults(self) -> tuple[Fault, ...]:
        """All faults, by kind."""
        return tuple(Fault(kind, n, tuple(self._examples[kind])) for kind, n in sorted(self._counts.items()))

    def add(self, table: str, **cells: Any) -> None:
        """Append a row; cells left out are null."""
        columns = self._open.setdefault(table, {name: [] for name in TABLES[table].names})
        for name, column in columns.items():
            column.append(cells.get(name))
        if len(columns[TABLES[table].names[0]]) >= BATCH:
            self._close(table)

    def sae(self, source: str, *, layer: int | None, model: str, hook: str | None = None) -> str:
        """The id of an SAE that the catalog calls `source`; noted on first sight."""
        options = self.options
        names = {"model": model, "source": source, "layer": layer}
        sae_id = (options.sae or "{model}/{source}").format(**names)
        if sae_id not in self.saes:
            place = options.hook.format(**names) if options.hook else (hook or NOT_STATED)
            self.models.setdefault(model, ImportedModel(model))
            self.saes[sae_id] = ImportedSae(
                sae_id, model, place, layer, d_in=options.d_in, d_sae=options.d_sae, source=options.name
            )
        return sae_id

    def feature(self, feature: FeatureId, **statistics: Any) -> None:
        """A feature; seen twice, its first statistics stand."""
        if str(feature) not in self._seen:
            self._seen.add(str(feature))
            layer = self.saes[feature.sae_id].layer
            self.add(
                "features",
                sae_id=feature.sae_id,
                index=feature.index,
                layer=layer,
                redacted=False,
                **statistics,
            )

    def explanation(
        self, feature: FeatureId, text: str | None, *, lang: str | None = None, explainer: str | None = None
    ) -> str | None:
        """An explanation as its source has it; masked and empty ones are kept as such, and counted as faults.

        Returns:
            Its id, or None where the very same one was met before.
        """
        masked = text is not None and text.strip() == MASK
        empty = text is None or not text.strip()
        if masked:
            self.fault("masked", str(feature))
        elif empty:
            self.fault("empty", str(feature))
        elif text is not None and MASK in text:
            self.fault("masked in part", str(feature))
        who = explainer or self.options.explainer or NOT_STATED
        tongue = lang or self.options.lang or "en"
        known = [feature.sae_id, feature.index, None if masked or empty else text, who, tongue]
        # An unknown text is nobody else's: two catalogs that mask one feature keep a row each.
        key = content_id(json.dumps([*known, self.options.name] if masked or empty else known))
        if key in self._seen:
            self.fault("repeated", str(feature))
            return None
        self._seen.add(key)
        self.add(
            "explanations", explanation_id=key, sae_id=feature.sae_id, index=feature.index,
            text=None if masked or empty else text, masked=masked, lang=tongue, explainer=who,
            origin=self.options.name, error=EMPTY if empty else None,
            message=("null" if text is None else f"empty: {text!r}") if empty else None, ordinal=len(self._seen),
        )  # fmt: skip
        return key

    def score(
        self, feature: FeatureId, explanation_id: str, value: float | None, *, method: str, **more: Any
    ) -> None:
        """A score; one that is no correlation is kept as undefined, and counted as a fault."""
        if value is not None and not (math.isfinite(value) and abs(value) <= 1):
            self.fault("score outside [-1, 1]", f"{feature}: {value}")
            value, more = None, {**more, "reason": f"the source says {value}, which is no correlation"}
        self.add(
            "scores", explanation_id=explanation_id, sae_id=feature.sae_id, index=feature.index, method=method,
            simulator=NOT_STATED, value=value, ordinal=len(self._seen), **more,
        )  # fmt: skip

    def tags(self, feature: FeatureId, tags: Iterable[str]) -> None:
        """Tags in their order; a repeated one counts once."""
        for position, tag in enumerate(tags, start=1):
            key = f"{feature} {tag}"
            if key in self._seen:
                continue
            self._seen.add(key)
            self.add(
                "tags", sae_id=feature.sae_id, index=feature.index, position=position, tag=tag,
                source=self.options.name,
            )  # fmt: skip

    def exemplar(self, feature: FeatureId, rank: int, tokens: Sequence[str], values: Sequence[float]) -> None:
        """A window in which the feature fires; it counts as shown to an explainer (split `train`)."""
        if max(values, default=0.0) <= 0:
            return
        document = content_id("".join(tokens))
        if f"{feature} window {document}" in self._seen:
            self.fault("repeated window", str(feature))
            return
        self._seen.add(f"{feature} window {document}")
        self.add(
            "exemplars", sae_id=feature.sae_id, index=feature.index, rank=rank, split="train",
            document_id=document, start=0, maximum=max(values), tokens=list(tokens),
            activations=list(values),
        )  # fmt: skip

    def tables(self) -> dict[str, list[ArrowTable]]:
        """All rows so far, as batches of the release format's tables."""
        for table in list(self._open):
            self._close(table)
        return self.batches

    def _close(self, table: str) -> None:
        columns = self._open.pop(table)
        self.batches[table].append(pa.table(columns, schema=TABLES[table]))
