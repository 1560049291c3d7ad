"""Statistics of harvested features: density, mean, maximum, quantiles, top tokens."""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from safesail.store.bulk import Column, insert
from safesail.store.ranges import feature_counts, feature_ranges
from safesail.store.sql import Db, transaction
from safesail.store.top_tokens import TokenCodes, top_tokens

Middle = Callable[[NDArray[np.int32]], NDArray[np.float32]]
"""From bins to the values in their middle."""

_QUANTILES = {"q90": 0.9, "q99": 0.99, "q999": 0.999}
_FEATURES_AT_ONCE = 4096
_BINS_AT_ONCE = 100_000
"""Rows of the histograms that are added up at once."""


def merge_bins(db: Db, sae_keys: Sequence[int]) -> None:
    """Add up the histograms of shards: one row per feature and bin. Sums are exact, so their order leaves no trace.

    Values of one bin share their exponent: 2^29 float32 of them add up in a double without rounding.
    """
    for sae_key in sae_keys:
        for first, stop in feature_ranges(feature_counts(db, sae_key, "count(*)"), _BINS_AT_ONCE):
            _merge(db, {"key": sae_key, "first": first, "stop": stop})


def _merge(db: Db, which: dict[str, int]) -> None:
    of_these = "FROM activation_bins WHERE sae_key = $key AND feature >= $first AND feature < $stop"
    with transaction(db):
        db.execute(
            f"""
            CREATE OR REPLACE TEMP TABLE merged_bins AS
            SELECT sae_key, feature, bin, CAST(sum(n) AS BIGINT) AS n, sum(total) AS total, max(maximum) AS maximum
            {of_these} GROUP BY ALL
            """,
            which,
        )
        db.execute(f"DELETE {of_these}", which)
        db.execute("INSERT INTO activation_bins BY NAME SELECT * FROM merged_bins ORDER BY feature, bin")
        db.execute("DROP TABLE merged_bins")


def write_features(
    db: Db,
    harvest_key: int,
    sae: tuple[str, int, int],
    n_tokens: int,
    middle: Middle,
    strings: TokenCodes,
) -> None:
    """Write one row per feature, those that never fired included.

    Args:
        db: Store, in which the SAE's histograms are merged and its activations sorted.
        harvest_key: Of the harvest.
        sae: Its id, short key, and number of features.
        n_tokens: Tokens that the harvest ran over.
        middle: Value in the middle of each bin.
        strings: Of the harvest's tokens.
    """
    sae_id, sae_key, d_sae = sae
    for first in range(0, d_sae, _FEATURES_AT_ONCE):
        stop = min(first + _FEATURES_AT_ONCE, d_sae)
        columns, n_active = _statistics(db, sae_key, (first, stop), n_tokens, middle)
        tokens = top_tokens(db, sae_key, first, n_active, strings)
        columns |= {
            "sae_id": [sae_id] * (stop - first),
            "feature": np.arange(first, stop, dtype=np.int32),
            "harvest_key": np.full(stop - first, harvest_key, dtype=np.int32),
            "top_tokens": pa.array([tokens.get(j) for j in range(first, stop)], type=pa.list_(pa.string())),
        }
        insert(db, "features", columns, on_conflict="REPLACE")


def quantiles_from_bins(
    feature: NDArray[np.int64], middles: NDArray[np.float64], n: NDArray[np.int64], q: float
) -> dict[int, float]:
    """Quantile `q` of every feature from its histogram.

    The order statistic at rank ceil(q * (n_active - 1)) is read as the middle of its bin.

    Args:
        feature: Feature of each bin; bins sorted by feature, then by value.
        middles: Value in the middle of each bin.
        n: Count in each bin.
        q: In [0, 1].
    """
    quantiles: dict[int, float] = {}
    if not len(feature):  # no feature ever fired
        return quantiles
    starts = np.flatnonzero(np.r_[True, feature[1:] != feature[:-1]])
    for start, stop in zip(starts, np.r_[starts[1:], len(feature)], strict=True):
        cumulative = np.cumsum(n[start:stop])
        rank = int(np.ceil(q * (cumulative[-1] - 1)))
        quantiles[int(feature[start])] = float(
            middles[start + np.searchsorted(cumulative, rank, side="right")]
        )
    return quantiles


def _statistics(
    db: Db, sae_key: int, features: tuple[int, int], n_tokens: int, middle: Middle
) -> tuple[dict[str, Column], NDArray[np.int64]]:
    """Columns of `features`, and the nonzeros of each."""
    first, stop = features
    bins = db.execute(
        "SELECT feature, bin, n, total, maximum FROM activation_bins"
        " WHERE sae_key = ? AND feature >= ? AND feature < ? ORDER BY feature, bin",
        [sae_key, first, stop],
    ).fetchnumpy()
    feature = np.asarray(bins["feature"], dtype=np.int64)
    offset, size = feature - first, stop - first
    n = np.asarray(bins["n"], dtype=np.int64)
    active = np.bincount(offset, weights=n, minlength=size).astype(np.int64)
    total = np.bincount(offset, weights=np.asarray(bins["total"], dtype=float), minlength=size)
    maximum = np.zeros(size)
    np.maximum.at(maximum, offset, np.asarray(bins["maximum"], dtype=float))
    middles = np.minimum(middle(np.asarray(bins["bin"], dtype=np.int32)).astype(float), maximum[offset])
    quantiles = {name: quantiles_from_bins(feature, middles, n, q) for name, q in _QUANTILES.items()}
    dead = active == 0
    columns: dict[str, Column] = {
        "n_tokens": np.full(size, n_tokens, dtype=np.int64),
        "n_active": active,
        "density": active / n_tokens,
        "mean": pa.array(total / np.maximum(active, 1), mask=dead),
        "maximum": pa.array(maximum, mask=dead),
        **{name: [of.get(j) for j in range(first, stop)] for name, of in quantiles.items()},
    }
    return columns, active
