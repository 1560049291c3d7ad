"""Which SAEs are one, and bringing together what the store knows of them under two names."""

from collections.abc import Sequence

from safesail.domain.records import SaeRecord
from safesail.errors import ConfigError
from safesail.store.imports import begin_import, merge_features
from safesail.store.registry import sae_key, utc_now
from safesail.store.sql import Db, one, rows, value

_COLUMNS = "sae_id, model_id, hook, d_in, d_sae, architecture, sha256, source, k, layer"


def stored_saes(db: Db) -> list[SaeRecord]:
    """All SAEs of the store, in the order in which they came."""
    return [SaeRecord(*row) for row in rows(db, f"SELECT {_COLUMNS} FROM saes ORDER BY sae_key")]


def sae_aliases(db: Db) -> dict[str, SaeRecord]:
    """SAEs by other names under which catalogs know them, where both have been proven to be one."""
    known = {sae.sae_id: sae for sae in stored_saes(db)}
    return {
        str(alias): known[sae_id]
        for alias, sae_id in rows(db, "SELECT alias, sae_id FROM sae_aliases ORDER BY alias")
        if sae_id in known
    }


def alias_proofs(db: Db) -> list[tuple[str, str, str]]:
    """Alias, SAE and proof of every SAE that was joined."""
    return [
        (str(a), str(s), str(p))
        for a, s, p in rows(db, "SELECT alias, sae_id, proof FROM sae_aliases ORDER BY 1")
    ]


def harvested_saes(db: Db) -> set[str]:
    """SAEs that this store ran itself."""
    return {
        str(row[0]) for row in rows(db, "SELECT DISTINCT sae_id FROM features WHERE harvest_key IS NOT NULL")
    }


def densities(db: Db, theirs: str, ours: str) -> tuple[Sequence[float], Sequence[float]]:
    """Densities of the features for which both SAEs have one."""
    selected = rows(
        db,
        "SELECT t.density, o.density FROM features t JOIN features o USING (feature) WHERE t.sae_id = ?"
        " AND o.sae_id = ? AND t.density IS NOT NULL AND o.density IS NOT NULL ORDER BY feature",
        [theirs, ours],
    )
    return [float(t) for t, _ in selected], [float(o) for _, o in selected]


def remember_alias(db: Db, alias: str, sae_id: str, proof: str) -> None:
    """Note that a catalog's name for an SAE is one of the store's."""
    db.execute("INSERT OR REPLACE INTO sae_aliases VALUES (?, ?, ?, ?)", [alias, sae_id, proof, utc_now()])


def join_saes(db: Db, theirs: str, ours: str, proof: str) -> None:
    """Put everything that is known of `theirs` under `ours`, and forget the name but as an alias.

    Statistics and windows of `ours` stand where it has any: those of two texts are never mixed.

    Raises:
        ConfigError: `theirs` was harvested in this store, or indices go beyond the width of `ours`.
        NotFoundError: the store has not both.
    """
    old, new = sae_key(db, theirs), sae_key(db, ours)
    if theirs in harvested_saes(db):
        raise ConfigError(f"{theirs} was harvested in this store; name the imported one first")
    _check_indices(db, theirs, ours)
    begin_import(db)
    merge_features(db, theirs, ours)
    for table in ("explanations", "scores", "feature_concepts"):
        db.execute(f"UPDATE {table} SET sae_id = ? WHERE sae_id = ?", [ours, theirs])
    db.execute(
        "INSERT INTO tags SELECT ? AS sae_id, feature, tag, source, severity FROM tags t WHERE sae_id = ?"
        " AND NOT EXISTS (SELECT 1 FROM tags o WHERE o.sae_id = ? AND o.feature = t.feature AND o.tag = t.tag"
        " AND o.source = t.source) ORDER BY t.rowid",
        [ours, theirs, ours],
    )
    _move_windows(db, old, new, ours)
    for table in ("tags", "features", "saes"):
        db.execute(f"DELETE FROM {table} WHERE sae_id = ?", [theirs])
    db.execute("UPDATE sae_aliases SET sae_id = ? WHERE sae_id = ?", [ours, theirs])
    remember_alias(db, theirs, ours, proof)


def _check_indices(db: Db, theirs: str, ours: str) -> None:
    width = value(db, "SELECT d_sae FROM saes WHERE sae_id = ?", [ours])
    last = value(db, "SELECT max(feature) FROM features WHERE sae_id = ?", [theirs])
    if width is not None and last is not None and last >= width:
        raise ConfigError(
            f"{theirs} has the index {last:,}, and {ours} only {width:,} features; they are two SAEs"
        )


def _move_windows(db: Db, old: int, new: int, ours: str) -> None:
    held = one(db, "SELECT harvest_key FROM harvest_saes WHERE sae_key = ?", [old])
    if held is None:
        return
    if one(db, "SELECT 1 FROM harvest_saes WHERE sae_key = ?", [new]) is None:
        db.execute("UPDATE activations_f32 SET sae_key = ? WHERE sae_key = ?", [new, old])
        db.execute("INSERT INTO harvest_saes VALUES (?, ?)", [new, held[0]])
        db.execute("UPDATE harvests SET harvest_id = ? WHERE harvest_key = ?", [f"import:{ours}", held[0]])
    else:
        db.execute("DELETE FROM activations_f32 WHERE sae_key = ?", [old])
        for table in ("windows", "harvests"):
            db.execute(f"DELETE FROM {table} WHERE harvest_key = ?", [held[0]])
    db.execute("DELETE FROM harvest_saes WHERE sae_key = ?", [old])


def explained_range(db: Db, origin: str) -> list[tuple[str, int, int | None, int, tuple[int, ...]]]:
    """By SAE that a catalog explains: features explained, width, features it says nothing of, and the first of them.

    Where the width is unknown, features up to the last explained one count.
    """
    selected = rows(
        db,
        """
        WITH said AS (SELECT DISTINCT sae_id, feature FROM explanations WHERE origin = ?),
        spans AS (SELECT sae_id, count(*) AS n, d_sae, coalesce(d_sae, max(feature) + 1) AS width
                  FROM said JOIN saes USING (sae_id) GROUP BY sae_id, d_sae)
        SELECT sae_id, n, d_sae, width - n, (
            SELECT list(i ORDER BY i)[:3] FROM range(CAST(width AS BIGINT)) r(i)
            WHERE NOT EXISTS (SELECT 1 FROM said WHERE said.sae_id = spans.sae_id AND said.feature = i))
        FROM spans ORDER BY sae_id
        """,
        [origin],
    )
    return [
        (str(sae), int(n), width, int(missing), tuple(int(i) for i in first or ()))
        for sae, n, width, missing, first in selected
    ]
