"""What the store knows of models, SAEs and runs."""

import json
from dataclasses import astuple, replace
from datetime import timedelta
from pathlib import Path

import pytest

from safesail.domain.records import NOT_STATED, SaeInfo, SaeRecord, SubjectInfo
from safesail.errors import FingerprintError, NotFoundError
from safesail.store.connection import Db
from safesail.store.registry import (
    finish_run,
    register_sae,
    register_subject,
    sae_key,
    start_run,
    utc_now,
)
from safesail.store.sql import one, rows, value
from safesail.version import __version__

SUBJECT = SubjectInfo("tiny", "a" * 64, 8, 2)
SAE = SaeInfo("s1", "tiny", "blocks.1.hook_mlp_out", 8, 32, "topk", "b" * 64, "folder", 4)


def stored(db: Db, sae_id: str) -> tuple[object, ...] | None:
    return one(
        db,
        "SELECT sae_id, model_id, hook, d_in, d_sae, architecture, sha256, source, k, layer FROM saes WHERE sae_id = ?",
        [sae_id],
    )


def test_a_subject_is_recorded_once(db: Db) -> None:
    register_subject(db, SUBJECT)
    register_subject(db, SUBJECT)
    assert rows(db, "SELECT * FROM subject_models") == [("tiny", "a" * 64, 8, 2)]


def test_another_model_under_the_same_name(db: Db) -> None:
    register_subject(db, SUBJECT)
    with pytest.raises(FingerprintError) as caught:
        register_subject(db, replace(SUBJECT, fingerprint="c" * 64))
    message = str(caught.value)
    assert "'tiny'" in message
    assert "a" * 12 in message
    assert "c" * 12 in message
    assert "--store" in message
    assert value(db, "SELECT fingerprint FROM subject_models") == "a" * 64


def test_an_imported_subject_gets_its_fingerprint_when_it_is_seen(db: Db) -> None:
    db.execute("INSERT INTO subject_models VALUES ('tiny', NULL, NULL, NULL)")
    register_subject(db, SUBJECT)
    assert rows(db, "SELECT * FROM subject_models") == [("tiny", "a" * 64, 8, 2)]


def test_saes_get_keys_of_their_own_and_read_back(db: Db) -> None:
    first = register_sae(db, SAE)
    second = register_sae(db, replace(SAE, sae_id="s2", k=None, hook="hook_embed"))
    assert first != second
    assert register_sae(db, SAE) == first == sae_key(db, "s1")
    assert stored(db, "s1") == astuple(replace(SAE, layer=1))
    assert stored(db, "s2") == astuple(replace(SAE, sae_id="s2", k=None, hook="hook_embed"))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (replace(SAE, sha256="d" * 64), f"has sha256 '{'b' * 64}', the one at hand '{'d' * 64}'"),
        (replace(SAE, hook="blocks.0.hook_mlp_out"), "the one at hand 'blocks.0.hook_mlp_out'"),
        (
            SaeRecord("s1", "other", SAE.hook, None, None, None, None, "x"),
            "has model_id 'tiny', the one at hand 'other'",
        ),
        (SaeRecord("s1", "tiny", SAE.hook, None, 64, None, None, "x"), "has d_sae 32, the one at hand 64"),
    ],
)
def test_another_sae_under_the_same_id(db: Db, other: SaeRecord, said: str) -> None:
    register_sae(db, SAE)
    with pytest.raises(FingerprintError, match=r"SAE 's1'.*rename it, or use another --store") as caught:
        register_sae(db, other)
    assert said in str(caught.value)
    assert stored(db, "s1") == astuple(replace(SAE, layer=1))


def test_the_same_weights_under_another_name_of_the_model_are_the_same_sae(db: Db) -> None:
    key = register_sae(db, SAE)
    assert register_sae(db, replace(SAE, model_id="/somewhere/tiny")) == key
    assert stored(db, "s1") == astuple(replace(SAE, layer=1))


def test_an_imported_sae_gets_its_weights_when_they_are_seen(db: Db) -> None:
    imported = SaeRecord("s1", "tiny", NOT_STATED, None, None, None, None, "folder", layer=1)
    key = register_sae(db, imported)
    assert stored(db, "s1") == astuple(imported)
    assert register_sae(db, SAE) == key
    assert stored(db, "s1") == astuple(replace(SAE, layer=1))
    register_sae(db, imported)
    assert stored(db, "s1") == astuple(replace(SAE, layer=1))
    with pytest.raises(FingerprintError, match="SAE 's1'"):
        register_sae(db, replace(SAE, sha256="d" * 64))


def test_an_unknown_sae_says_which_there_are(db: Db) -> None:
    with pytest.raises(NotFoundError, match="no SAE 'x'; it has none yet"):
        sae_key(db, "x")
    register_sae(db, SAE)
    with pytest.raises(NotFoundError, match="no SAE 'x'; it has s1"):
        sae_key(db, "x")


def test_a_run_is_running_until_it_is_finished(db: Db) -> None:
    run = start_run(db, "harvest", {"out": Path("x"), "k": 1})
    found = one(db, "SELECT stage, settings, version, finished_at, seconds FROM runs WHERE run_id = ?", [run])
    assert found is not None
    assert found[0] == "harvest"
    assert json.loads(found[1]) == {"k": 1, "out": "x"}
    assert found[2:] == (__version__, None, None)
    finish_run(db, run)
    ended = one(db, "SELECT started_at, finished_at, seconds FROM runs WHERE run_id = ?", [run])
    assert ended is not None
    assert ended[1] - ended[0] == timedelta(seconds=ended[2])
    assert 0 <= ended[2] < 60
    assert abs(utc_now() - ended[1]) < timedelta(minutes=1)
    assert start_run(db, "harvest", {}) != run
