"""What must hold of every row of a release (format version 3), as data. A public interface, like the format."""

import pyarrow as pa

from safesail.catalog.format import REQUIRED, TABLES

RANGES: dict[str, dict[str, tuple[float, float | None]]] = {
    "features": {
        "index": (0, None), "n_tokens": (0, None), "n_active": (0, None), "density": (0, 1), "mean": (0, None),
        "maximum": (0, None), "q90": (0, None), "q99": (0, None), "q999": (0, None),
    },
    "explanations": {"confidence": (0, 1), "ordinal": (0, None)},
    "tags": {"position": (1, None), "severity": (1, 3)},
    "scores": {
        "value": (-1, 1), "low": (-1, 1), "high": (-1, 1), "chance": (-1, 1), "auc": (0, 1),
        "balanced_accuracy": (0, 1), "n_units": (0, None), "n_windows": (0, None), "tokens": (0, None),
        "ordinal": (0, None), "lookup": (-1, 1), "gain_low": (-2, 2), "gain_high": (-2, 2),
    },
    "exemplars": {"rank": (1, None), "start": (0, None), "maximum": (0, None)},
    "concepts": {},
    "feature_concepts": {"frequency": (0, 1), "swapped": (0, 1), "n_pairs": (1, None)},
    "effects": {"expected": (-1, 1), "p": (0, 1), "q": (0, 1), "n_texts": (0, None), "strength": (0, None)},
}  # fmt: skip
"""Least and largest value of a column."""

_ULP = 1e-9
"""Of numbers near 1 that were computed in another order."""

_FLOAT32 = 1 + 1e-6
"""Of numbers that were stored with less precision."""

ROWS: dict[str, dict[str, str]] = {
    "features": {
        "n_active must not be above n_tokens": "n_active <= n_tokens",
        "density must be n_active / n_tokens": f"abs(density * n_tokens - n_active) <= {_ULP} * n_tokens",
        "q90, q99, q999 and the maximum must ascend":
            f"greatest(q90, q99, q999) <= maximum * {_FLOAT32} AND coalesce(q90 <= q99, true)"
            " AND coalesce(q99 <= q999, true)",
        "mean must not be above the maximum": f"mean <= maximum * {_FLOAT32}",
        "a redacted feature must have no top tokens": "NOT redacted OR top_tokens IS NULL",
        "a top token must not be null": "len(list_filter(top_tokens, lambda t: t IS NULL)) = 0",
    },
    "explanations": {
        "an explanation is marked as masked and has a text": "NOT masked OR text IS NULL",
        "an explanation has both a text and an error": "text IS NULL OR error IS NULL",
        "an explanation has neither a text nor an error, and is not masked":
            "text IS NOT NULL OR error IS NOT NULL OR masked",
    },
    "tags": {"a tag must not be empty": "trim(tag) <> ''"},
    "scores": {
        "a score has neither a value nor a reason":
            "value IS NOT NULL OR reason IS NOT NULL OR error IS NOT NULL",
        "low must not be above high": "low <= high",
        "gain_low must not be above gain_high": "gain_low <= gain_high",
    },
    "exemplars": {
        "column 'split' must be train, calibration or test": "split IN ('train', 'calibration', 'test')",
        "an exemplar must have 1 to 65,536 tokens": "len(tokens) BETWEEN 1 AND 65536",
        "an exemplar must have one activation per token": "len(tokens) = len(activations)",
        "a token must not be null": "len(list_filter(tokens, lambda t: t IS NULL)) = 0",
        "an activation must be a number from 0":
            "len(list_filter(activations, lambda v: v IS NULL OR NOT isfinite(v) OR v < 0)) = 0",
        "maximum must be the largest activation, above 0":
            f"maximum > 0 AND abs(maximum - list_max(activations)) <= ({_FLOAT32} - 1) * maximum",
    },
    "concepts": {"a concept's id, domain and name must not be empty":
        "trim(concept_id) <> '' AND trim(domain) <> '' AND trim(name) <> ''"},
    "feature_concepts": {"frequency and swapped are shares of the same pairs": f"frequency + swapped <= 1 + {_ULP}"},
    "effects": {
        "an effect has neither a value nor a reason": "value IS NOT NULL OR reason IS NOT NULL",
        "an effect must have a null beside its p": "p IS NULL OR (null_value IS NOT NULL AND value IS NOT NULL)",
        "q must not be below p": f"q >= p - {_ULP}",
        "gain_low must not be above gain_high": "gain_low <= gain_high",
        "a null must be a number": "len(list_filter(null_values, lambda v: v IS NULL OR NOT isfinite(v))) = 0",
        "a token must not be null": "len(list_filter(tokens, lambda t: t IS NULL)) = 0",
    },
}  # fmt: skip
"""Conditions in SQL by what they say; one that is NULL, as a cell is unknown, is met."""

REFERENCES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("features", ("sae_id", "layer"), "saes"),
    ("explanations", ("sae_id", "index"), "release.features"),
    ("tags", ("sae_id", "index"), "release.features"),
    ("exemplars", ("sae_id", "index"), "release.features"),
    ("feature_concepts", ("sae_id", "index"), "release.features"),
    ("effects", ("sae_id", "index"), "release.features"),
    ("feature_concepts", ("concept_id",), "release.concepts"),
    ("scores", ("explanation_id", "sae_id", "index"), "release.explanations"),
)
"""Columns of a table, and the table that must have their values."""

FORBIDDEN = {
    "features.parquet: a feature has no layer, and its SAE has": 'SELECT sae_id, "index" FROM release.features f'
    " JOIN saes USING (sae_id) WHERE f.layer IS NULL AND saes.layer IS NOT NULL",
    "explanations.parquet: a redacted feature has a text": 'SELECT sae_id, "index" FROM release.explanations'
    ' SEMI JOIN (FROM release.features WHERE redacted) USING (sae_id, "index") WHERE text IS NOT NULL',
    "effects.parquet: a redacted feature has tokens": 'SELECT sae_id, "index" FROM release.effects'
    ' SEMI JOIN (FROM release.features WHERE redacted) USING (sae_id, "index") WHERE tokens IS NOT NULL',
    "exemplars.parquet: a redacted feature has a window": 'SELECT sae_id, "index" FROM release.exemplars'
    ' SEMI JOIN (FROM release.features WHERE redacted) USING (sae_id, "index")',
}
"""Rows that must not be there, in SQL, by what they say."""


def conditions(table: str) -> dict[str, str]:
    """Everything that must hold of one row of a table by itself, in SQL, by what it says."""
    checks = {f"column {name!r} has empty cells": f'"{name}" IS NOT NULL' for name in REQUIRED[table]}
    for column in TABLES[table]:
        if pa.types.is_floating(column.type):
            checks[f"column {column.name!r} holds NaN or an infinite number"] = f'isfinite("{column.name}")'
    for name, (least, most) in RANGES[table].items():
        if most is None:
            checks[f"column {name!r} must not be below {least}"] = f'"{name}" >= {least}'
        else:
            checks[f"column {name!r} must lie in [{least}, {most}]"] = f'"{name}" BETWEEN {least} AND {most}'
    return checks | ROWS[table]
