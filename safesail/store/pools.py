"""Which features were scored together in one prompt, which had better not be, and the windows that they share."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from safesail.domain.records import Window
from safesail.errors import BadAnswerError
from safesail.store.exemplars import HarvestedFeature, spread
from safesail.store.sql import Db, numbers, rows, transaction, value


@dataclass(frozen=True)
class PoolMember:
    """A feature's part in one prompt."""

    feature: int
    explanation_id: str
    turn: int
    """How many prompts it was part of before: says which of its windows it contributes."""


@dataclass(frozen=True)
class Pool:
    """Features of one SAE in one prompt."""

    members: tuple[PoolMember, ...]
    pool_id: int | None = None
    """None: not recorded."""

    error: str | None = None
    """Class of what was wrong with the answer."""

    message: str | None = None
    tokens: int | None = None
    """Billed for such an answer."""


@dataclass(frozen=True)
class PoolKey:
    """Whose scores pools are of: one SAE, simulator and settings."""

    sae_id: str
    simulator: str
    settings_hash: str


def record_pools(db: Db, key: PoolKey, pools: Iterable[Pool], run_id: str) -> list[Pool]:
    """Note, before they are asked about, which features are in one prompt; returns the pools with their ids."""
    recorded: list[Pool] = []
    for pool in pools:
        pool_id = int(value(db, "SELECT nextval('pool_order')"))
        members = json.dumps([[m.feature, m.explanation_id, m.turn] for m in pool.members])
        db.execute(
            "INSERT INTO pools (pool_id, sae_id, simulator, settings_hash, members, run_id)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            [pool_id, key.sae_id, key.simulator, key.settings_hash, members, run_id],
        )
        recorded.append(Pool(pool.members, pool_id))
    return recorded


def replace_pool(db: Db, key: PoolKey, pool: Pool, parts: Iterable[Pool], run_id: str) -> list[Pool]:
    """Note smaller pools in the place of one that was not asked about; returns them with their ids."""
    with transaction(db):
        db.execute("DELETE FROM pools WHERE pool_id = ?", [pool.pool_id])
        return record_pools(db, key, parts, run_id)


def record_lost(db: Db, pool: Pool, error: BadAnswerError) -> None:
    """Note that the answer about a pool was of no use: it is not asked for again."""
    db.execute(
        "UPDATE pools SET error = ?, message = ?, tokens = ? WHERE pool_id = ?",
        [type(error).__name__, str(error), error.tokens, pool.pool_id],
    )


def read_pools(db: Db, key: PoolKey) -> list[Pool]:
    """Every pool of these scores, oldest first."""
    stored = rows(
        db,
        "SELECT pool_id, members, error, message, tokens FROM pools"
        " WHERE sae_id = ? AND simulator = ? AND settings_hash = ? ORDER BY pool_id",
        [key.sae_id, key.simulator, key.settings_hash],
    )
    return [
        Pool(tuple(PoolMember(*member) for member in json.loads(members)), int(pool_id), *lost)
        for pool_id, members, *lost in stored
    ]


def kept_apart(db: Db, sae_id: str, features: Sequence[int]) -> dict[int, set[int]]:
    """For each feature those that are too like it to be its controls: near-duplicates, and features of its concept.

    A feature's concept is the one that it isolates best in the newest selection; one that no selection nominated has
    none.
    """
    pairs = rows(
        db,
        """
        WITH newest AS (SELECT arg_max(selection_id, rowid) AS selection_id FROM selections WHERE sae_id = $sae_id),
        best AS (
            SELECT feature, arg_max(concept_id, frequency - swapped) AS concept_id
            FROM feature_concepts SEMI JOIN newest USING (selection_id)
            WHERE sae_id = $sae_id AND candidate GROUP BY feature
        )
        SELECT a.feature, b.feature FROM best a JOIN best b USING (concept_id) WHERE a.feature < b.feature
        UNION SELECT feature, other FROM near_features WHERE sae_id = $sae_id
        """,
        {"sae_id": sae_id},
    )
    apart: dict[int, set[int]] = {feature: set() for feature in features}
    for a, b in pairs:
        if a in apart and b in apart:
            apart[a].add(int(b))
            apart[b].add(int(a))
    return apart


@dataclass(frozen=True)
class SharedWindow:
    """A window with the activations of several features on it."""

    window: Window
    activations: dict[int, tuple[float, ...] | None]
    """By feature, one per token; None where the store does not hold all of its nonzeros in this document."""


def shared_windows(
    db: Db, features: Sequence[HarvestedFeature], window_ids: Sequence[int], sparse: Iterable[int]
) -> dict[int, SharedWindow]:
    """Windows by id, each with the activations of all of `features`, which are of one SAE.

    Args:
        db: The open store.
        features: Of one SAE.
        window_ids: Of its harvest.
        sparse: Of these features only the nonzeros of documents that are kept whole are all stored.
    """
    stored = rows(
        db,
        "SELECT w.window_id, w.document_id, w.start, w.token_ids, w.tokens, w.split, d.whole"
        " FROM windows w JOIN documents d USING (harvest_key, document_id)"
        " WHERE w.harvest_key = ? AND list_contains(?, w.window_id)",
        [features[0].harvest_key, list(window_ids)],
    )
    silent = set(sparse)
    shared: dict[int, SharedWindow] = {}
    for window_id, document_id, start, token_ids, tokens, split, whole in stored:
        window = Window(document_id, start, tuple(token_ids), tuple(tokens), split)
        none = (0.0,) * len(tokens)
        shared[int(window_id)] = SharedWindow(
            window,
            {f.feature.index: none if whole or f.feature.index not in silent else None for f in features},
        )
    for feature, window_id, positions, values in rows(
        db,
        "SELECT feature, window_id, positions, activations FROM active_windows"
        f" WHERE sae_key = ? AND feature IN ({numbers(f.feature.index for f in features)})"
        f" AND window_id IN ({numbers(window_ids)})",
        [features[0].sae_key],
    ):
        at = shared[int(window_id)]
        if at.activations[feature] is not None:
            at.activations[feature] = spread(positions, values, len(at.window.tokens))
    return shared
