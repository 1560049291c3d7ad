"""Reading one feature's windows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from safesail.domain.ids import FeatureId
from safesail.domain.records import Kind, Split, Window
from safesail.errors import NotFoundError
from safesail.store.connection import Db
from safesail.store.sql import Row, numbers, one, rows


@dataclass(frozen=True)
class HarvestedFeature:
    """A feature that a harvest has seen, and where its rows lie."""

    feature: FeatureId
    sae_key: int
    harvest_key: int
    n_active: int
    q999: float | None
    """Value that counts as full activation; None where the feature never fired."""

    top_tokens: tuple[str, ...]


def find_feature(db: Db, feature: FeatureId) -> HarvestedFeature:
    """Where a feature's activations lie.

    Raises:
        NotFoundError: the store holds no finished harvest of it, or its SAE has fewer features.
    """
    return find_features(db, [feature])[feature]


def find_features(db: Db, features: Sequence[FeatureId]) -> dict[FeatureId, HarvestedFeature]:
    """Where the activations of features of one SAE lie.

    Raises:
        NotFoundError: as `find_feature`, of the first that is missing.
    """
    if not features:
        return {}
    sae_id = features[0].sae_id
    stored = rows(
        db,
        f"""
        SELECT f.feature, s.sae_key, h.harvest_key, f.n_active, f.q999, f.top_tokens
        FROM features f JOIN saes s USING (sae_id) JOIN harvests h USING (harvest_key)
        WHERE f.sae_id = ? AND f.feature IN ({numbers(f.index for f in features)}) AND h.finished
        """,
        [sae_id],
    )
    harvested = {
        FeatureId(sae_id, int(r[0])): HarvestedFeature(
            FeatureId(sae_id, int(r[0])), int(r[1]), int(r[2]), int(r[3]), r[4], tuple(r[5] or ())
        )
        for r in stored
    }
    for feature in features:
        if feature not in harvested:
            raise NotFoundError(_why_missing(db, feature))
    return harvested


def _why_missing(db: Db, feature: FeatureId) -> str:
    harvest_of(db, feature.sae_id)
    (n,) = one(db, "SELECT d_sae FROM saes WHERE sae_id = ?", [feature.sae_id]) or (None,)
    if n is not None and feature.index >= n:
        return f"there is no {feature}: the features of {feature.sae_id} are 0 to {n - 1}"
    return f"no harvest of {feature} in this store; run `safesail harvest` first"


def harvest_of(db: Db, sae_id: str) -> str:
    """Identity of an SAE's harvest.

    Raises:
        NotFoundError: the SAE has none that is finished.
    """
    row = one(
        db,
        "SELECT harvest_id, finished FROM saes JOIN harvest_saes USING (sae_key) JOIN harvests USING (harvest_key)"
        " WHERE sae_id = ?",
        [sae_id],
    )
    if row is None:
        raise NotFoundError(f"{sae_id} has no harvest in this store; run `safesail harvest` first")
    if not row[1]:
        raise NotFoundError(f"the harvest of {sae_id} is not finished; run the same `safesail harvest` again")
    return str(row[0])


def densest_features(db: Db, sae_id: str) -> list[int]:
    """Features of an SAE that fire, the one that fires on most tokens first."""
    dense = rows(
        db,
        "SELECT feature FROM features WHERE sae_id = ? AND density > 0 ORDER BY density DESC, feature",
        [sae_id],
    )
    return [int(row[0]) for row in dense]


def harvested_saes(db: Db) -> list[str]:
    """SAEs with a finished harvest."""
    harvested = rows(
        db,
        "SELECT sae_id FROM saes JOIN harvest_saes USING (sae_key) JOIN harvests USING (harvest_key)"
        " WHERE finished ORDER BY 1",
    )
    return [str(row[0]) for row in harvested]


class ActiveWindows(NamedTuple):
    """Windows in which a feature fires, in columns of one length, in the order of the text."""

    window_id: NDArray[np.int64]
    key: list[str]
    """Document and first token: the same whatever order the documents came in."""

    maximum: NDArray[np.float64]
    """Of the feature, in the window."""


def active_windows(db: Db, f: HarvestedFeature, split: Split) -> ActiveWindows:
    """Windows of a split in which the feature fires."""
    return active_windows_of(db, [f], split)[f.feature]


def active_windows_of(
    db: Db, features: Sequence[HarvestedFeature], split: Split
) -> dict[FeatureId, ActiveWindows]:
    """Windows of a split in which each of some features of one SAE fires."""
    stored = rows(
        db,
        f"""
        SELECT m.feature, w.window_id, concat_ws('/', w.document_id, w.start), max(m.value)
        FROM activations m JOIN windows w USING (harvest_key, window_id)
        WHERE m.sae_key = ? AND m.feature IN ({numbers(f.feature.index for f in features)}) AND w.split = ?
        GROUP BY m.feature, w.window_id, w.document_id, w.start
        ORDER BY m.feature, w.document_id, w.start
        """,
        [features[0].sae_key, split],
    )
    by_feature: dict[int, list[Row]] = {}
    for row in stored:
        by_feature.setdefault(int(row[0]), []).append(row)
    return {
        f.feature: ActiveWindows(
            np.array([r[1] for r in by_feature.get(f.feature.index, ())], dtype=np.int64),
            [str(r[2]) for r in by_feature.get(f.feature.index, ())],
            np.array([r[3] for r in by_feature.get(f.feature.index, ())], dtype=float),
        )
        for f in features
    }


_CONTROLS: dict[Kind, str] = {
    "random": "",
    "hard": "AND list_has_any(w.tokens, q.top_tokens)",
    "boundary": "AND (q.feature, w.document_id) IN (SELECT feature, document_id FROM active"
    " JOIN windows v USING (window_id) WHERE v.harvest_key = $harvest_key)",
}


def silent_windows(db: Db, f: HarvestedFeature, split: Split, kind: Kind, *, n: int, seed: int) -> list[int]:
    """Windows of a split in which the feature does not fire, as `silent_windows_of` draws them."""
    return silent_windows_of(db, [f], split, kind, n=n, seed=seed)[f.feature]


def silent_windows_of(
    db: Db, features: Sequence[HarvestedFeature], split: Split, kind: Kind, *, n: int, seed: int
) -> dict[FeatureId, list[int]]:
    """Windows of a split in which a feature does not fire, drawn by a hash of where they lie in the text.

    Args:
        db: The open store.
        features: Of one SAE.
        split: Windows of this split only.
        kind: `random`: any; `hard`: that hold one of the feature's top tokens; `boundary`: of a document in which
            the feature fires elsewhere.
        n: At most so many of each feature.
        seed: Of the draw.
    """
    silent: dict[FeatureId, list[int]] = {f.feature: [] for f in features}
    asked = [f for f in features if kind != "hard" or f.top_tokens]
    if n == 0 or not asked:
        return silent
    sae_id, listed = asked[0].feature.sae_id, numbers(f.feature.index for f in asked)
    parameters: dict[str, Any] = {
        "sae_key": asked[0].sae_key, "harvest_key": asked[0].harvest_key, "split": split, "seed": seed, "n": n,
        "indices": [f.feature.index for f in asked], "top_tokens": [list(f.top_tokens) for f in asked],
    }  # fmt: skip
    stored = rows(
        db,
        f"""
        WITH active AS (
            SELECT DISTINCT feature, window_id FROM activations WHERE sae_key = $sae_key AND feature IN ({listed})
        ), asked AS (SELECT unnest($indices) AS feature, unnest($top_tokens) AS top_tokens)
        SELECT q.feature,
               arg_min(w.window_id, md5(concat_ws('/', $seed, q.feature, w.document_id, w.start)), $n)
        FROM asked q, windows w
        WHERE w.harvest_key = $harvest_key AND w.split = $split
          AND NOT EXISTS (FROM active a WHERE a.feature = q.feature AND a.window_id = w.window_id)
          {_CONTROLS[kind]}
        GROUP BY q.feature
        """,
        parameters,
    )
    return silent | {FeatureId(sae_id, int(j)): [int(w) for w in drawn] for j, drawn in stored}


Fetched = dict[int, tuple[Window, tuple[float, ...]]]
"""Windows by id, each with a feature's activation at every one of its tokens."""


def fetch_windows(db: Db, f: HarvestedFeature, window_ids: Sequence[int]) -> Fetched:
    """Windows by id, each with the feature's activation at every one of its tokens."""
    return fetch_windows_of(db, {f: window_ids})[f.feature]


def fetch_windows_of(db: Db, wanted: Mapping[HarvestedFeature, Sequence[int]]) -> dict[FeatureId, Fetched]:
    """The same of several features of one SAE."""
    first, ids = next(iter(wanted)), {w for of in wanted.values() for w in of}
    windows: dict[int, Window] = {}
    for window_id, document_id, start, token_ids, tokens, split in rows(
        db,
        "SELECT window_id, document_id, start, token_ids, tokens, split FROM windows"
        f" WHERE harvest_key = ? AND window_id IN ({numbers(ids) or 'NULL'})",
        [first.harvest_key],
    ):
        windows[int(window_id)] = Window(document_id, start, tuple(token_ids), tuple(tokens), split)
    silent = {w: (0.0,) * len(window.tokens) for w, window in windows.items()}
    fetched = {f.feature: {w: (windows[w], silent[w]) for w in of} for f, of in wanted.items()}
    for feature, window_id, positions, values in rows(
        db,
        "SELECT feature, window_id, positions, activations FROM active_windows WHERE sae_key = ?"
        f" AND feature IN ({numbers(f.feature.index for f in wanted)}) AND window_id IN ({numbers(ids) or 'NULL'})",
        [first.sae_key],
    ):
        of = fetched[FeatureId(first.feature.sae_id, int(feature))]
        if window_id in of:
            window = windows[int(window_id)]
            of[int(window_id)] = (window, spread(positions, values, len(window.tokens)))
    return fetched


def spread(positions: Sequence[int], values: Sequence[float], n_tokens: int) -> tuple[float, ...]:
    """Nonzeros as one value per token."""
    activations = [0.0] * n_tokens
    for position, activation in zip(positions, values, strict=True):
        activations[position] = float(activation)
    return tuple(activations)


def window_counts(db: Db, sae_id: str) -> dict[int, dict[str, int]]:
    """For every feature of an SAE that fires: by split, the number of windows in which it does."""
    stored = rows(
        db,
        """
        SELECT a.feature, w.split, count(*)
        FROM active_windows a JOIN saes s USING (sae_key) JOIN windows w USING (harvest_key, window_id)
        WHERE s.sae_id = ? GROUP BY 1, 2
        """,
        [sae_id],
    )
    counts: dict[int, dict[str, int]] = {}
    for feature, split, n in stored:
        counts.setdefault(int(feature), {})[str(split)] = int(n)
    return counts


def coactivity(db: Db, sae_id: str, a: int, b: int) -> float:
    """Cosine of two features' activations over all harvested tokens, in [0, 1]; 0 where one never fired."""
    stored = one(
        db,
        """
        WITH sides AS (
            SELECT token, max(value) FILTER (feature = ?) AS x, max(value) FILTER (feature = ?) AS y
            FROM activations JOIN saes USING (sae_key)
            WHERE sae_id = ? AND feature IN (?, ?) GROUP BY token
        )
        SELECT coalesce(sum(x * y) / nullif(sqrt(sum(x * x)) * sqrt(sum(y * y)), 0), 0) FROM sides
        """,
        [a, b, sae_id, a, b],
    )
    return 0.0 if stored is None else float(stored[0])
