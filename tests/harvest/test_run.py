"""Harvests of a tiny real model: every nonzero once, whatever happens on the way."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch

from safesail.errors import ConfigError, FingerprintError, NotFoundError
from safesail.harvest.config import HarvestConfig
from safesail.harvest.feature_list import features_to_keep
from safesail.harvest.run import HarvestJob, run_harvest
from safesail.sae.protocol import SAE
from safesail.store.connection import Db, open_writer
from safesail.store.sql import rows, value
from safesail.subject.protocol import Subject
from safesail.text.windows import cut
from tests.harvest.conftest import TEXTS, write_texts

CONFIG = HarvestConfig(n_ctx=16, shard_tokens=60, batch_tokens=64)
MANY = [f"filler number {i}" for i in range(60)]
"""More rows than a reader looks at to find the text's column."""

CONTENT = """
    SELECT s.sae_id, a.feature, w.document_id, w.start, a.position, a.value
    FROM activations a JOIN saes s USING (sae_key) JOIN windows w USING (harvest_key, window_id)
    ORDER BY 1, 2, 3, 4, 5
"""
"""The nonzeros by what they say, not by the numbers that the store gives to windows."""


def job(subject: Subject, saes: list[SAE], path: Path, **settings: object) -> HarvestJob:
    return HarvestJob(subject, saes, [str(path)], CONFIG.model_copy(update=settings))


def slow_nonzeros(subject: Subject, saes: list[SAE], n_ctx: int) -> dict[tuple[str, int, int, int], float]:
    """(sae, feature, document number, token) -> value, one window at a time, dense."""
    found: dict[tuple[str, int, int, int], float] = {}
    for number, text in enumerate(TEXTS):
        for start, ids in cut(subject.tokenize(text), n_ctx):
            for sae in saes:
                hidden = subject.run(torch.tensor([ids]), capture=[sae.info.hook]).activations[sae.info.hook][
                    0
                ]
                acts = sae.encode(hidden)
                for t, j, v in zip(
                    acts.token.tolist(), acts.feature.tolist(), acts.value.tolist(), strict=True
                ):
                    found[sae.info.sae_id, j, number, start + t] = v
    return found


def test_nonzeros_equal_those_of_a_slow_obvious_run(
    db: Db, subject: Subject, saes: list[SAE], text_file: Path
) -> None:
    report = run_harvest(db, job(subject, saes, text_file), quiet=True)
    documents = {text: number for number, text in enumerate(TEXTS)}
    by_id = {str(r[0]): documents[str(r[1])] for r in rows(db, "SELECT document_id, text FROM documents")}
    stored = {(s, j, by_id[d], start + p): v for s, j, d, start, p, v in rows(db, CONTENT)}
    expected = slow_nonzeros(subject, saes, 16)
    assert stored.keys() == expected.keys()
    assert report.n_nonzeros == len(expected) > 1000
    assert max(abs(stored[key] - expected[key]) for key in expected) < 1e-4


def test_statistics_of_features_by_the_stored_nonzeros(
    db: Db, subject: Subject, saes: list[SAE], text_file: Path
) -> None:
    run_harvest(db, job(subject, saes, text_file), quiet=True)
    n_tokens = sum(len(subject.tokenize(text)) for text in TEXTS)
    for j, n_active, density, mean, maximum, q90 in rows(
        db, "SELECT feature, n_active, density, mean, maximum, q90 FROM features WHERE sae_id = 'tiny-l0'"
    ):
        values = np.array([r[5] for r in rows(db, CONTENT) if r[0] == "tiny-l0" and r[1] == j])
        assert n_active == len(values)
        assert density == pytest.approx(len(values) / n_tokens)
        if len(values) == 0:
            assert (mean, maximum, q90) == (None, None, None)
            continue
        assert mean == pytest.approx(values.mean(), rel=1e-5)
        assert maximum == pytest.approx(values.max())
        exact = np.quantile(values, 0.9, method="higher")
        assert abs(q90 - exact) <= exact / 128 + 1e-6  # the error that the histogram promises


def test_no_token_is_lost_or_doubled_and_splits_are_by_document(
    db: Db, subject: Subject, saes: list[SAE], text_file: Path
) -> None:
    run_harvest(db, job(subject, saes, text_file), quiet=True)
    joined = rows(db, "SELECT document_id, list(token_ids ORDER BY start) FROM windows GROUP BY document_id")
    texts = {str(r[0]): str(r[1]) for r in rows(db, "SELECT document_id, text FROM documents")}
    for document_id, parts in joined:
        assert [i for part in parts for i in part] == subject.tokenize(texts[document_id])
    assert (
        value(db, "SELECT max(n) FROM (SELECT count(DISTINCT split) n FROM windows GROUP BY document_id)")
        == 1
    )


def test_every_script_and_broken_characters_come_back_as_token_strings(
    db: Db, subject: Subject, saes: list[SAE], tmp_path: Path
) -> None:
    texts = [
        "熊 🐻 und Wärme",
        "مرحبا بالعالم",
        "नमस्ते",
        "fam 👨\u200d👩\u200d👧",
        "half \ufffd end",
        "熊 🐻 und Wärme",
    ]
    run_harvest(db, job(subject, saes, write_texts(tmp_path / "t.jsonl", texts), n_ctx=7), quiet=True)
    stored = dict(rows(db, "SELECT text, document_id FROM documents"))
    assert stored.keys() == set(texts)  # the text that came twice is there once
    for text, document_id in stored.items():
        tokens = value(
            db, f"SELECT string_agg(array_to_string(tokens, ''), '' ORDER BY start) FROM windows"
            f" WHERE document_id = '{document_id}'",
        )  # fmt: skip
        # Each token is a byte: those of a character that is split are written \\xe7 and so on.
        assert (
            tokens.encode("latin-1", "backslashreplace").decode("unicode_escape").encode("latin-1")
            == text.encode()
        )


def test_no_test_window_shares_a_document_with_a_train_window(
    db: Db, subject: Subject, saes: list[SAE], tmp_path: Path
) -> None:
    run_harvest(
        db, job(subject, saes, write_texts(tmp_path / "t.jsonl", [*TEXTS, *MANY, *TEXTS])), quiet=True
    )
    shared = "SELECT count(*) FROM windows a JOIN windows b USING (harvest_key, document_id) WHERE a.split <> b.split"
    assert value(db, shared) == 0
    assert value(db, "SELECT count(DISTINCT split) FROM windows") == 2
    assert value(db, "SELECT count(*) FROM documents") == len({*TEXTS, *MANY})


def test_other_text_in_a_pipe_is_not_taken_for_the_finished_one(
    db: Db, subject: Subject, saes: list[SAE], monkeypatch: pytest.MonkeyPatch
) -> None:
    piped = HarvestJob(subject, saes, ["-"], CONFIG)

    def run(text: str, *, replace: bool = False) -> int:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        return run_harvest(db, piped, replace=replace, quiet=True).new_tokens

    assert run(TEXTS[0]) > 0
    assert run(TEXTS[0]) == 0
    with pytest.raises(FingerprintError, match="standard input holds other text"):
        run(TEXTS[1])
    assert run(TEXTS[1], replace=True) > 0
    assert rows(db, "SELECT text FROM documents") == [(TEXTS[1],)]


def test_order_of_documents_and_batches_change_nothing(
    subject: Subject, saes: list[SAE], tmp_path: Path
) -> None:
    stored = []
    for name, texts, batch in (("a", TEXTS, 64), ("b", TEXTS[::-1], 17), ("c", TEXTS, 10_000)):
        with open_writer(tmp_path / f"{name}.duckdb") as db:
            path = write_texts(tmp_path / f"{name}.jsonl", texts)
            run_harvest(db, job(subject, saes, path, batch_tokens=batch), quiet=True)
            stored.append(rows(db, CONTENT))
    for other in stored[1:]:
        assert [r[:5] for r in other] == [r[:5] for r in stored[0]]
        assert np.allclose([r[5] for r in other], [r[5] for r in stored[0]], atol=1e-4)


def test_a_finished_harvest_does_nothing(db: Db, subject: Subject, saes: list[SAE], text_file: Path) -> None:
    first = run_harvest(db, job(subject, saes, text_file), quiet=True)
    text_file.unlink()  # it does not even read
    again = run_harvest(db, job(subject, saes, text_file), quiet=True)
    assert again.new_tokens == 0 < first.new_tokens
    assert again.n_nonzeros == first.n_nonzeros


def test_a_broken_harvest_goes_on_at_the_first_unfinished_shard(
    db: Db, subject: Subject, saes: list[SAE], tmp_path: Path
) -> None:
    texts = [*TEXTS, *MANY]
    path = write_texts(tmp_path / "texts.jsonl", texts)
    path.write_text(path.read_text() + "{broken\n")
    with pytest.raises(ConfigError, match="not readable as JSON lines"):
        run_harvest(db, job(subject, saes, path), quiet=True)
    done = value(db, "SELECT sum(n_tokens) FROM shards")
    write_texts(path, texts)
    report = run_harvest(db, job(subject, saes, path), quiet=True)
    assert 0 < done < report.n_tokens
    assert report.new_tokens == report.n_tokens - done
    with open_writer(tmp_path / "unbroken.duckdb") as other:
        run_harvest(other, job(subject, saes, path), quiet=True)
        assert rows(db, CONTENT) == rows(other, CONTENT)


def test_changed_text_is_not_mixed_in(db: Db, subject: Subject, saes: list[SAE], tmp_path: Path) -> None:
    path = write_texts(tmp_path / "texts.jsonl", [*TEXTS, *MANY])
    path.write_text(path.read_text() + "{broken\n")
    with pytest.raises(ConfigError):
        run_harvest(db, job(subject, saes, path), quiet=True)
    write_texts(path, [*TEXTS[1:], *MANY])
    with pytest.raises(FingerprintError, match=r"the text changed since this harvest began \(shard 0"):
        run_harvest(db, job(subject, saes, path), quiet=True)


def test_other_settings_need_replace(db: Db, subject: Subject, saes: list[SAE], text_file: Path) -> None:
    run_harvest(db, job(subject, saes, text_file), quiet=True)
    with pytest.raises(
        ConfigError, match="tiny-l0 was harvested into this store from other text or with other"
    ):
        run_harvest(db, job(subject, saes, text_file, n_ctx=8), quiet=True)
    replaced = run_harvest(db, job(subject, saes, text_file, n_ctx=8), replace=True, quiet=True)
    assert replaced.n_nonzeros == len(slow_nonzeros(subject, saes, 8)) == len(rows(db, CONTENT))


def test_candidates_keep_their_nonzeros_and_whole_documents_all(
    db: Db, subject: Subject, saes: list[SAE], text_file: Path
) -> None:
    keep = {sae.info.sae_id: np.arange(sae.info.d_sae) < 5 for sae in saes}
    config = CONFIG.model_copy(update={"features": "candidates", "whole_documents": 0.3})
    run_harvest(db, HarvestJob(subject, saes, [str(text_file)], config, keep), quiet=True)
    whole = {r[0] for r in rows(db, "SELECT document_id FROM documents WHERE whole")}
    stored = rows(db, CONTENT)
    assert 0 < len(whole) < len(TEXTS)
    assert all(r[1] < 5 or r[2] in whole for r in stored)
    assert {r[1] for r in stored if r[2] in whole} > set(range(5))
    # Densities count every nonzero, kept or not.
    kept_all = sum(r[0] for r in rows(db, "SELECT n_active FROM features"))
    assert kept_all == len(slow_nonzeros(subject, saes, 16)) > len(stored)


def test_statistics_do_not_depend_on_what_is_kept(
    subject: Subject, saes: list[SAE], text_file: Path, tmp_path: Path
) -> None:
    of = "SELECT sae_id, feature, n_active, maximum, q90, q99, q999, mean FROM features ORDER BY 1, 2"
    stored = []
    for name, features, keep in (
        ("all", "all", None),
        ("few", "listed", {sae.info.sae_id: np.arange(sae.info.d_sae) < 5 for sae in saes}),
    ):
        config = CONFIG.model_copy(update={"features": features, "whole_documents": 0.3})
        with open_writer(tmp_path / f"{name}.duckdb") as db:
            run_harvest(db, HarvestJob(subject, saes, [str(text_file)], config, keep), quiet=True)
            stored.append(rows(db, of))
    assert [r[:-1] for r in stored[0]] == [r[:-1] for r in stored[1]]
    assert [r[-1] for r in stored[1]] == [r[-1] and pytest.approx(r[-1], rel=1e-12) for r in stored[0]]


def test_candidates_without_a_selection_are_refused(db: Db, subject: Subject, saes: list[SAE]) -> None:
    config = HarvestConfig(features="candidates")
    with pytest.raises(NotFoundError, match="run `safesail select-sae` first"):
        features_to_keep(db, [sae.info for sae in saes], config)
    with pytest.raises(ConfigError, match="needs to be told which features"):
        HarvestJob(subject, saes, ["x"], config)


def test_no_text_is_an_error(db: Db, subject: Subject, saes: list[SAE], tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no text at"):
        run_harvest(db, job(subject, saes, tmp_path / "none.txt"), quiet=True)
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(ConfigError, match="no text in"):
        run_harvest(db, job(subject, saes, tmp_path / "empty.txt"), quiet=True)


def test_n_tokens_is_kept_exactly_and_cuts_the_last_document(
    db: Db, subject: Subject, saes: list[SAE], text_file: Path
) -> None:
    lengths = np.cumsum([len(subject.tokenize(text)) for text in TEXTS])
    report = run_harvest(db, job(subject, saes, text_file, n_tokens=int(lengths[2]) - 1), quiet=True)
    assert report.n_tokens == lengths[2] - 1
    assert report.n_documents == 3
    last = value(db, "SELECT n_tokens FROM documents WHERE text = ?", [TEXTS[2]])
    assert last == len(subject.tokenize(TEXTS[2])) - 1
