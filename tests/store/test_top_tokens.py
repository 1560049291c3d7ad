"""Top tokens: of any range of features, the same as one plain sum."""

import itertools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from safesail.store.connection import Db, open_memory
from safesail.store.runs import Merged
from safesail.store.sql import rows
from safesail.store.top_tokens import N_TOP_TOKENS, token_codes, top_tokens

N_CTX, N_WINDOWS, N_FEATURES = 8, 40, 12
VOCABULARY = [*(f" word{i}" for i in range(30)), "\n", "é", "\\x80", "🙂"]


@pytest.fixture
def db() -> Iterator[Db]:
    with open_memory() as opened:
        yield opened


def fill(db: Db) -> np.ndarray:
    """A harvest with windows of several lengths; the number of nonzeros of every feature, one of them silent."""
    rng = np.random.default_rng(0)
    for table, columns in (("harvests", "n_ctx INTEGER"), ("windows", "window_id BIGINT, tokens TEXT[]")):
        db.execute(
            f"CREATE OR REPLACE TABLE {table} (harvest_key INTEGER, {columns})"
        )  # what is read of them
    db.execute("INSERT INTO harvests VALUES (1, ?), (2, ?)", [N_CTX, N_CTX])
    db.execute("INSERT INTO harvest_saes VALUES (5, 1)")
    for window in range(N_WINDOWS):
        tokens = [VOCABULARY[i] for i in rng.integers(0, len(VOCABULARY), rng.integers(1, N_CTX + 1))]
        db.execute("INSERT INTO windows (harvest_key, window_id, tokens) VALUES (1, ?, ?)", [window, tokens])
        db.execute("INSERT INTO windows (harvest_key, window_id, tokens) VALUES (2, ?, ['other'])", [window])
        for position in range(len(tokens)):
            for feature in rng.choice(N_FEATURES - 1, 4, replace=False).tolist():
                # Few values, so that sums are often equal and the order of strings decides.
                db.execute(
                    "INSERT INTO activations_f32 BY NAME SELECT 5 AS sae_key, ? AS feature, ? AS sort_key, 0 AS stride,"
                    " ? AS value",
                    [feature, window * N_CTX + position, float(rng.integers(1, 3))],
                )
    counts = dict(rows(db, "SELECT feature, count(*) FROM activations GROUP BY 1"))
    return np.array([counts.get(j, 0) for j in range(N_FEATURES)])


def plainly(db: Db) -> dict[int, list[str]]:
    """One row at a time."""
    sums: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for feature, token, value in rows(db, "SELECT feature, token, value FROM activations WHERE sae_key = 5"):
        (tokens,) = rows(
            db, "SELECT tokens FROM windows WHERE harvest_key = 1 AND window_id = ?", [token // N_CTX]
        )[0]
        sums[feature][tokens[token % N_CTX]] += value
    return {
        feature: sorted(of, key=lambda string: (-of[string], string.encode()))[:N_TOP_TOKENS]
        for feature, of in sums.items()
    }


def merged(db: Db, first: int, stop: int) -> Merged:
    of = "SELECT feature, token, value FROM activations WHERE feature >= ? AND feature < ? ORDER BY ALL"
    feature, token, value = db.execute(of, [first, stop]).fetchnumpy().values()
    return Merged(first, stop, feature.astype(np.int32), token.astype(np.int64), value.astype(np.float32))


@pytest.mark.parametrize("edges", [[0, N_FEATURES], [0, 5, 6, N_FEATURES]])
def test_they_are_those_of_a_plain_sum_whatever_is_held_at_once(
    db: Db, tmp_path: Path, edges: list[int]
) -> None:
    n_active = fill(db)
    with token_codes(db, 1, tmp_path / "codes") as known:
        lists = [top_tokens(merged(db, a, b), known).to_pylist() for a, b in itertools.pairwise(edges)]
    flat = [strings for part in lists for strings in part]
    assert {j: strings for j, strings in enumerate(flat) if strings is not None} == plainly(db)
    assert [strings is None for strings in flat] == (n_active == 0).tolist()
    assert list((tmp_path / "codes").iterdir()) == []
