"""Subject models, SAEs and runs that the store knows, with the fingerprints that keep them apart."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from safesail.domain.ids import layer_of
from safesail.domain.records import NOT_STATED, SaeRecord, SubjectInfo
from safesail.errors import FingerprintError, NotFoundError
from safesail.store.sql import Db, one, rows, transaction, value
from safesail.version import __version__


def register_subject(db: Db, subject: SubjectInfo) -> None:
    """Record the subject model, or check it against what is recorded and add what that lacks.

    Raises:
        FingerprintError: the store holds another model under the same name.
    """
    row = one(db, "SELECT fingerprint FROM subject_models WHERE model_id = ?", [subject.model_id])
    if row is None or (row[0] is None and subject.fingerprint is not None):
        db.execute(
            "INSERT OR REPLACE INTO subject_models VALUES (?, ?, ?, ?)",
            [subject.model_id, subject.fingerprint, subject.d_model, subject.n_layers],
        )
    elif subject.fingerprint not in (None, row[0]):
        raise FingerprintError(
            f"the store's {subject.model_id!r} has fingerprint {str(row[0])[:12]}, the model at hand "
            f"{str(subject.fingerprint)[:12]}; use another --store, or the model it was made with"
        )


_SAE_COLUMNS = ("model_id", "hook", "layer", "d_in", "d_sae", "architecture", "k", "sha256")


def register_sae(db: Db, sae: SaeRecord) -> int:
    """Record the SAE, or check it against what is recorded and add what that lacks; returns its short key.

    Raises:
        FingerprintError: the store holds another SAE under the same id: other weights, hook, width or model.
    """
    given = {name: getattr(sae, name) for name in _SAE_COLUMNS}
    if sae.layer is None:
        given["layer"] = layer_of(sae.hook)
    row = one(db, f"SELECT sae_key, {', '.join(_SAE_COLUMNS)} FROM saes WHERE sae_id = ?", [sae.sae_id])
    if row is None:
        key = int(value(db, "SELECT nextval('sae_keys')"))
        names = ("sae_id", "sae_key", *_SAE_COLUMNS, "source")
        db.execute(
            f"INSERT INTO saes ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",
            [sae.sae_id, key, *given.values(), sae.source],
        )
        return key
    known = dict(zip(_SAE_COLUMNS, row[1:], strict=True))
    for name in _SAE_COLUMNS:
        if _unknown(known[name]) or _unknown(given[name]):
            known[name] = given[name] if _unknown(known[name]) else known[name]
        # Weights at hand tell more than what somebody called their model.
        elif known[name] != given[name] and (name != "model_id" or sae.sha256 is None):
            raise FingerprintError(
                f"the store's SAE {sae.sae_id!r} has {name} {known[name]!r}, the one at hand {given[name]!r}; "
                "it is another SAE: rename it, or use another --store"
            )
    assignments = ", ".join(f"{name} = ?" for name in _SAE_COLUMNS)
    db.execute(f"UPDATE saes SET {assignments} WHERE sae_id = ?", [*known.values(), sae.sae_id])
    return int(row[0])


def _unknown(stated: object) -> bool:
    return stated is None or stated == NOT_STATED


def sae_key(db: Db, sae_id: str) -> int:
    """Short key of an SAE in `activations`.

    Raises:
        NotFoundError: the store does not know the SAE.
    """
    row = one(db, "SELECT sae_key FROM saes WHERE sae_id = ?", [sae_id])
    if row is None:
        known = [str(r[0]) for r in rows(db, "SELECT sae_id FROM saes ORDER BY 1 LIMIT 8")]
        raise NotFoundError(f"the store has no SAE {sae_id!r}; it has {', '.join(known) or 'none yet'}")
    return int(row[0])


def start_run(db: Db, stage: str, settings: Mapping[str, Any]) -> str:
    """Record that a stage begins; returns the run's id."""
    run_id = uuid4().hex[:12]
    with transaction(db):
        db.execute(
            "INSERT INTO runs VALUES (?, ?, ?, ?, ?, NULL, NULL)",
            [run_id, stage, json.dumps(settings, sort_keys=True, default=str), __version__, utc_now()],
        )
    return run_id


def finish_run(db: Db, run_id: str) -> None:
    """Record that a run ended in order, and how long it took."""
    now = utc_now()
    with transaction(db):
        db.execute(
            "UPDATE runs SET finished_at = ?, seconds = epoch(CAST(? AS TIMESTAMP)) - epoch(started_at)"
            " WHERE run_id = ?",
            [now, now, run_id],
        )


def utc_now() -> datetime:
    """The time in UTC, without a zone, as the store's TIMESTAMP columns hold it."""
    return datetime.now(UTC).replace(tzinfo=None)


def run_settings(db: Db, run_id: str) -> str | None:
    """The settings of a run as JSON; None: the store does not know it."""
    row = one(db, "SELECT settings FROM runs WHERE run_id = ?", [run_id])
    return None if row is None else str(row[0])


def all_runs(db: Db) -> list[dict[str, Any]]:
    """Runs by column, oldest first: run_id, stage, version, started, seconds (None: unfinished), budget.

    `budget` is the limit that the run was given, where its settings say it; else None.
    """
    names = ("run_id", "stage", "version", "started", "seconds", "budget")
    selected = rows(
        db,
        "SELECT run_id, stage, version, strftime(started_at, '%Y-%m-%d %H:%M'), seconds, settings ->> '$.budget'"
        " FROM runs ORDER BY started_at, run_id",
    )
    return [dict(zip(names, row, strict=True)) for row in selected]
