"""Subject models, SAEs and runs that the store knows, with the fingerprints that keep them apart."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from safesail import __version__
from safesail.domain.ids import layer_of
from safesail.domain.records import SaeInfo, SubjectInfo
from safesail.errors import FingerprintError, NotFoundError
from safesail.store.sql import Db, one, rows, value


def register_subject(db: Db, subject: SubjectInfo) -> None:
    """Record the subject model, or check it against what is recorded.

    Raises:
        FingerprintError: the store holds another model under the same name.
    """
    row = one(db, "SELECT fingerprint FROM subject_models WHERE model_id = ?", [subject.model_id])
    if row is None or row[0] is None:
        db.execute(
            "INSERT OR REPLACE INTO subject_models VALUES (?, ?, ?, ?)",
            [subject.model_id, subject.fingerprint, subject.d_model, subject.n_layers],
        )
    elif row[0] != subject.fingerprint:
        raise FingerprintError(
            f"the store's {subject.model_id!r} has fingerprint {row[0][:12]}, the model at hand "
            f"{subject.fingerprint[:12]}; use another --store, or the model it was made with"
        )


def register_sae(db: Db, sae: SaeInfo) -> int:
    """Record the SAE, or check it against what is recorded; returns its short key.

    Raises:
        FingerprintError: the store holds other weights, or another hook, under the same id.
    """
    row = one(db, "SELECT sae_key, sha256, hook FROM saes WHERE sae_id = ?", [sae.sae_id])
    if row is None:
        key = value(db, "SELECT nextval('sae_keys')")
        db.execute(
            "INSERT INTO saes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [sae.sae_id, key, sae.model_id, layer_of(sae.hook), sae.hook, sae.d_in, sae.d_sae,
             sae.architecture, sae.k, sae.sha256, sae.source],
        )  # fmt: skip
        return int(key)
    if row[1] not in (None, sae.sha256) or row[2] != sae.hook:
        raise FingerprintError(
            f"the store's SAE {sae.sae_id!r} has weights {str(row[1])[:12]} at {row[2]}, the one at hand "
            f"{sae.sha256[:12]} at {sae.hook}; rename it, or use another --store"
        )
    if row[1] is None:  # imported without its weights: from here on it is these
        db.execute(
            "UPDATE saes SET d_in = ?, d_sae = ?, architecture = ?, k = ?, sha256 = ? WHERE sae_id = ?",
            [sae.d_in, sae.d_sae, sae.architecture, sae.k, sae.sha256, sae.sae_id],
        )
    return int(row[0])


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


def find_sae(db: Db, sae_id: str) -> SaeInfo:
    """All that the store knows of an SAE.

    Raises:
        NotFoundError: the store does not know the SAE.
    """
    sae_key(db, sae_id)
    row = one(
        db,
        "SELECT sae_id, model_id, hook, d_in, d_sae, architecture, sha256, source, k"
        " FROM saes WHERE sae_id = ?",
        [sae_id],
    )
    assert row is not None
    return SaeInfo(*row)


def start_run(db: Db, stage: str, settings: Mapping[str, Any]) -> str:
    """Record that a stage begins; returns the run's id."""
    run_id = uuid4().hex[:12]
    db.execute(
        "INSERT INTO runs VALUES (?, ?, ?, ?, ?, NULL, NULL)",
        [run_id, stage, json.dumps(settings, sort_keys=True, default=str), __version__, utc_now()],
    )
    return run_id


def finish_run(db: Db, run_id: str) -> None:
    """Record that a run ended in order, and how long it took."""
    now = utc_now()
    db.execute(
        "UPDATE runs SET finished_at = ?, seconds = epoch(CAST(? AS TIMESTAMP)) - epoch(started_at)"
        " WHERE run_id = ?",
        [now, now, run_id],
    )


def utc_now() -> datetime:
    """The time in UTC, without a zone, as the store's TIMESTAMP columns hold it."""
    return datetime.now(UTC).replace(tzinfo=None)
