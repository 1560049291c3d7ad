"""What intruder detection shows of features, and what it found: a score of features, not of explanations."""

from collections.abc import Collection
from dataclasses import astuple, dataclass, fields

from safesail.domain.ids import FeatureId
from safesail.store.exemplars import HarvestedFeature
from safesail.store.explanations import ScoreOrigin
from safesail.store.sql import Db, Row, rows

N_DONORS = 8
"""Features per trial that may lend the intruder; some do not fire where they should."""


@dataclass(frozen=True)
class IntruderScore:
    """How often the text that does not belong was found among texts on which a feature fires."""

    feature: FeatureId
    simulator: str
    value: float | None
    """Share of the trials; None: none was answered."""

    low: float | None
    high: float | None
    """95 % interval."""

    chance: float
    """One over the number of texts."""

    n_trials: int
    n_correct: int
    tokens: int
    reason: str | None = None
    """Why there is no value."""


def intruding_windows(
    db: Db, f: HarvestedFeature, apart: Collection[int], n: int, *, seed: int, whole: bool
) -> list[tuple[int, int]]:
    """Held-out windows in which the feature is silent and another one fires: that one's index, and the window's id.

    Args:
        db: The open store.
        f: The feature.
        apart: Features that may not lend a window, since they are too like it.
        n: At most so many, each of another feature.
        seed: Of the draw, by hashes of features and places.
        whole: Only windows of documents whose nonzeros are all stored.
    """
    kept = "AND d.whole" if whole else ""
    drawn = rows(
        db,
        f"""
        WITH donors AS (
            SELECT feature FROM features
            WHERE sae_id = $sae_id AND n_active > 0 AND NOT list_contains($apart, feature)
            ORDER BY md5(concat_ws('/', $salt, feature)) LIMIT $n_donors
        ), active AS (SELECT DISTINCT window_id FROM activations WHERE sae_key = $sae_key AND feature = $feature)
        SELECT a.feature, a.window_id
        FROM (SELECT DISTINCT feature, harvest_key, window_id FROM activations
              WHERE sae_key = $sae_key AND feature IN (FROM donors)) a
        JOIN windows w USING (harvest_key, window_id) JOIN documents d USING (harvest_key, document_id)
        WHERE w.split = 'test' AND a.window_id NOT IN (FROM active) {kept}
        QUALIFY row_number() OVER (
            PARTITION BY a.feature ORDER BY md5(concat_ws('/', $salt, w.document_id, w.start))) = 1
        ORDER BY md5(concat_ws('/', $salt, a.feature)) LIMIT $n
        """,
        {
            "sae_id": f.feature.sae_id, "sae_key": f.sae_key, "feature": f.feature.index, "n": n,
            "apart": [*apart, f.feature.index], "n_donors": N_DONORS * n, "salt": f"{seed}/{f.feature.index}",
        },
    )  # fmt: skip
    return [(int(feature), int(window_id)) for feature, window_id in drawn]


_COLUMNS = tuple(f.name for f in fields(IntruderScore) if f.name != "feature")


def record_intruder(db: Db, score: IntruderScore, origin: ScoreOrigin) -> None:
    """Store a score; one of the same simulator and settings is replaced."""
    of = score.feature
    cells = [
        of.sae_id,
        of.index,
        *astuple(score)[1:],
        origin.run_id,
        origin.settings_json,
        origin.settings_hash,
    ]
    names = ("sae_id", "feature", *_COLUMNS, "run_id", "settings", "settings_hash")
    db.execute(
        f"INSERT OR REPLACE INTO intruder_scores ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",
        cells,
    )


def read_intruders(db: Db, sae_id: str) -> list[IntruderScore]:
    """Every score of an SAE's features, by feature."""
    stored = rows(
        db,
        f"SELECT feature, {', '.join(_COLUMNS)} FROM intruder_scores WHERE sae_id = ? ORDER BY feature, settings_hash",
        [sae_id],
    )
    return [IntruderScore(FeatureId(sae_id, feature), *cells) for feature, *cells in stored]


def intruder_rows(db: Db, feature: FeatureId) -> list[Row]:
    """simulator, value, low, high, chance, n_trials, reason of one feature."""
    return rows(
        db,
        "SELECT simulator, value, low, high, chance, n_trials, reason FROM intruder_scores"
        " WHERE sae_id = ? AND feature = ? ORDER BY simulator, settings_hash",
        [feature.sae_id, feature.index],
    )
