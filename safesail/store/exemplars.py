"""Reading one feature's windows."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from safesail.domain.ids import FeatureId
from safesail.domain.records import Kind, Split, Window
from safesail.errors import NotFoundError
from safesail.store.connection import Db
from safesail.store.sql import one, rows


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
    row = one(
        db,
        """
        SELECT s.sae_key, h.harvest_key, f.n_active, f.q999, f.top_tokens
        FROM features f JOIN saes s USING (sae_id) JOIN harvests h USING (harvest_key)
        WHERE f.sae_id = ? AND f.feature = ? AND h.finished
        """,
        [feature.sae_id, feature.index],
    )
    if row is None:
        raise NotFoundError(_why_missing(db, feature))
    return HarvestedFeature(feature, int(row[0]), int(row[1]), int(row[2]), row[3], tuple(row[4] or ()))


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
    stored = rows(
        db,
        """
        SELECT w.window_id, concat_ws('/', w.document_id, w.start), m.maximum
        FROM active_windows m JOIN windows w USING (harvest_key, window_id)
        WHERE m.sae_key = ? AND m.feature = ? AND w.split = ?
        ORDER BY w.document_id, w.start
        """,
        [f.sae_key, f.feature.index, split],
    )
    return ActiveWindows(
        np.array([r[0] for r in stored], dtype=np.int64),
        [str(r[1]) for r in stored],
        np.array([r[2] for r in stored], dtype=float),
    )


_CONTROLS: dict[Kind, str] = {
    "random": "",
    "hard": "AND list_has_any(w.tokens, $top_tokens)",
    "boundary": """AND w.document_id IN (
        SELECT document_id FROM windows JOIN active USING (window_id) WHERE harvest_key = $harvest_key)""",
}


def silent_windows(db: Db, f: HarvestedFeature, split: Split, kind: Kind, *, n: int, seed: int) -> list[int]:
    """Windows of a split in which the feature does not fire, drawn by a hash of where they lie in the text.

    Args:
        db: The open store.
        f: The feature.
        split: Windows of this split only.
        kind: `random`: any; `hard`: that hold one of the feature's top tokens; `boundary`: of a document in which
            the feature fires elsewhere.
        n: At most so many.
        seed: Of the draw.
    """
    if n == 0 or (kind == "hard" and not f.top_tokens):
        return []
    parameters: dict[str, Any] = {
        "sae_key": f.sae_key, "feature": f.feature.index, "harvest_key": f.harvest_key, "split": split,
        "salt": f"{seed}/{f.feature.index}", "n": n,
    }  # fmt: skip
    if kind == "hard":
        parameters["top_tokens"] = list(f.top_tokens)
    stored = rows(
        db,
        f"""
        WITH active AS (
            SELECT DISTINCT window_id FROM activations WHERE sae_key = $sae_key AND feature = $feature
        )
        SELECT w.window_id FROM windows w
        WHERE w.harvest_key = $harvest_key AND w.split = $split AND w.window_id NOT IN (FROM active)
          {_CONTROLS[kind]}
        ORDER BY md5(concat_ws('/', $salt, w.document_id, w.start)) LIMIT $n
        """,
        parameters,
    )
    return [int(r[0]) for r in stored]


def fetch_windows(
    db: Db, f: HarvestedFeature, window_ids: list[int]
) -> dict[int, tuple[Window, tuple[float, ...]]]:
    """Windows by id, each with the feature's activation at every one of its tokens."""
    stored = rows(
        db,
        """
        WITH asked AS (SELECT unnest(CAST($ids AS BIGINT[])) AS window_id), active AS (
            SELECT window_id, positions, activations FROM active_windows
            WHERE sae_key = $sae_key AND feature = $feature AND list_contains($ids, window_id)
        )
        SELECT w.window_id, w.document_id, w.start, w.token_ids, w.tokens, w.split, a.positions, a.activations
        FROM windows w JOIN asked USING (window_id) LEFT JOIN active a USING (window_id)
        WHERE w.harvest_key = $harvest_key
        """,
        {
            "ids": window_ids, "sae_key": f.sae_key, "feature": f.feature.index, "harvest_key": f.harvest_key,
        },
    )  # fmt: skip
    windows: dict[int, tuple[Window, tuple[float, ...]]] = {}
    for window_id, document_id, start, token_ids, tokens, split, positions, values in stored:
        activations = [0.0] * len(tokens)
        for position, activation in zip(positions or [], values or [], strict=True):
            activations[position] = float(activation)
        window = Window(document_id, start, tuple(token_ids), tuple(tokens), split)
        windows[int(window_id)] = (window, tuple(activations))
    return windows


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
