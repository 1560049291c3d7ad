"""Statistics of harvested features: density, mean, maximum, quantiles, top tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from safesail.store.bulk import Column, insert
from safesail.store.histogram import Histogram, quantiles
from safesail.store.runs import Merged
from safesail.store.sql import Db
from safesail.store.top_tokens import TokenCodes, top_tokens

_QUANTILES = {"q90": 0.9, "q99": 0.99, "q999": 0.999}


@dataclass(frozen=True)
class FeatureRows:
    """Statistics of the features [first, stop) of one SAE."""

    first: int
    stop: int
    active: NDArray[np.int32]
    """Features that fired, ascending; the columns below are theirs."""

    n_active: NDArray[np.int64]
    total: NDArray[np.float64]
    maximum: NDArray[np.float32]
    quantiles: dict[str, NDArray[np.float64]]
    top_tokens: Any
    """Arrow lists of strings, one per feature of the range; null where nothing is kept."""

    def columns(self, n_tokens: int) -> dict[str, Column]:
        """One row per feature of the range, those that never fired included."""
        size = self.stop - self.first
        silent = np.ones(size, bool)
        silent[self.active - self.first] = False

        def spread(values: NDArray[Any], dtype: Any) -> NDArray[Any]:
            column = np.zeros(size, dtype)
            column[self.active - self.first] = values
            return column

        n_active = spread(self.n_active, np.int64)
        known = {
            "mean": self.total / self.n_active, "maximum": self.maximum.astype(np.float64), **self.quantiles
        }  # fmt: skip
        return {
            "feature": np.arange(self.first, self.stop, dtype=np.int32),
            "n_active": n_active,
            "density": n_active / n_tokens,
            **{name: pa.array(spread(values, float), mask=silent) for name, values in known.items()},
            "top_tokens": self.top_tokens,
        }


@dataclass(frozen=True)
class FeatureMeasure:
    """Measures one SAE's features, a range at a time. Any number of threads may call it."""

    dropped: Histogram | None
    """Of the nonzeros that are not kept: they count too."""

    d_sae: int
    strings: TokenCodes

    def __call__(self, merged: Merged) -> FeatureRows:
        """Statistics of a range, of whose kept nonzeros all are given."""
        h = Histogram.of(merged.feature, merged.value, self.d_sae)
        if self.dropped is not None:
            h = Histogram.add_up([h, self.dropped.between(merged.first, merged.stop)])
        first = h.first_keys
        return FeatureRows(
            merged.first,
            merged.stop,
            h.feature,
            np.add.reduceat(h.n, first) if len(first) else np.zeros(0, np.int64),
            h.total,
            h.maximum,
            dict(zip(_QUANTILES, quantiles(h, list(_QUANTILES.values())), strict=True)),
            top_tokens(merged, self.strings),
        )


def write_features(
    db: Db, harvest_key: int, sae_id: str, n_tokens: int, measured: Sequence[FeatureRows]
) -> None:
    """Write one row per feature.

    Args:
        db: The open store.
        harvest_key: Of the harvest.
        sae_id: Of the SAE.
        n_tokens: Tokens that the harvest ran over.
        measured: All ranges of features, in order.
    """
    parts = [rows.columns(n_tokens) for rows in measured]
    columns = {name: _joined([part[name] for part in parts]) for name in parts[0]}
    ids = pa.array([sae_id] * sum(len(part["feature"]) for part in parts))
    constants = {"harvest_key": harvest_key, "n_tokens": n_tokens}
    insert(db, "features", {"sae_id": ids, **columns}, constants=constants, on_conflict="REPLACE")


def _joined(parts: Sequence[Column]) -> Column:
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else pa.concat_arrays(parts)
