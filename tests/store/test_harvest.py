"""What a harvest stores, fed with made nonzeros."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safesail.domain.ids import FeatureId
from safesail.domain.records import SaeInfo, SaeRecord, SubjectInfo
from safesail.errors import ConfigError, DataError
from safesail.store.connection import Db, open_writer
from safesail.store.harvest import (
    HarvestedShard,
    HarvestRecord,
    Precision,
    finish_harvest,
    open_harvest,
    read_harvest,
    write_shard,
)
from safesail.store.imports import IMPORT_N_CTX, add_tables, begin_import
from safesail.store.registry import register_sae
from safesail.store.runs import Run
from safesail.store.shown import exemplar_rows
from safesail.store.sql import rows, value

N_CTX = 64
SUBJECT = SubjectInfo("made", "f" * 64, 8, 1)
SAE = SaeInfo("made-l0", "made", "blocks.0.hook_mlp_out", 8, 6, "topk", "a" * 64, "made", k=2)
VALUES = st.floats(min_value=2.0**-100, max_value=2.0**120, width=32)
ROWS = st.lists(st.tuples(st.integers(0, 5), VALUES), min_size=1, max_size=N_CTX)


def begin(db: Db) -> HarvestRecord:
    return open_harvest(db, "h", SUBJECT, [SAE], {"n_ctx": N_CTX}, replace=False)


def shard(record: HarvestRecord, number: int, made: Sequence[tuple[int, float]]) -> HarvestedShard:
    """One document of one window, in which token i has the i-th nonzero."""
    feature = np.array([r[0] for r in made], dtype=np.int32)
    values = np.array([r[1] for r in made], dtype=np.float32)
    run = Run.of(feature, np.arange(len(made)), values, d_sae=SAE.d_sae, n_slots=N_CTX)
    key, name = record.sae_keys[SAE.sae_id], f"d{number}"
    return HarvestedShard(
        number=number, content=f"content {number}", n_tokens=N_CTX,
        documents={
            "harvest_key": [record.key], "document_id": [name], "source": ["made"], "split": ["train"],
            "n_tokens": [N_CTX], "whole": [False], "text": ["text"],
        },
        windows={
            "harvest_key": [record.key], "window_id": [number], "document_id": [name], "start": [0],
            "split": ["train"], "token_ids": [list(range(N_CTX))], "tokens": [["t"] * N_CTX],
        },
        first_slot=number * N_CTX, nonzeros={key: run}, dropped={},
    )  # fmt: skip


def store(db: Db, record: HarvestRecord, number: int, made: Sequence[tuple[int, float]]) -> None:
    write_shard(db, record.key, shard(record, number, made))


def finish(db: Db, record: HarvestRecord, precision: Precision) -> None:
    done = read_harvest(db, record.key, record.sae_keys)
    finish_harvest(db, done, {SAE.sae_id: SAE.d_sae}, precision)


def harvested(made: Sequence[tuple[int, float]], precision: Precision) -> list[tuple[int, int, float]]:
    """(feature, token, value) as the store gives them back."""
    with TemporaryDirectory() as folder, open_writer(Path(folder) / "store.duckdb") as db:
        record = begin(db)
        store(db, record, 0, made)
        finish(db, record, precision)
        return [tuple(r) for r in rows(db, "SELECT feature, token, value FROM activations ORDER BY 1, 2")]


@settings(max_examples=25)
@given(ROWS)
def test_one_byte_is_within_its_stated_error_and_never_zero(made: list[tuple[int, float]]) -> None:
    exact, coded = harvested(made, "f32"), harvested(made, "u8")
    assert [r[:2] for r in exact] == [r[:2] for r in coded] and len(exact) == len(made)
    assert sorted(r[2] for r in exact) == sorted(v for _, v in made)  # f32 is exact
    for feature in {r[0] for r in exact}:
        values = np.array([r[2] for r in exact if r[0] == feature])
        shown = np.array([r[2] for r in coded if r[0] == feature])
        assert (np.abs(shown - values) <= values.max() / 510).all()
        assert (shown > 0).all()
        assert shown.max() == pytest.approx(values.max(), rel=1e-6)  # the largest neither grows nor overflows


def test_one_byte_codes_by_hand(db: Db) -> None:
    record = begin(db)
    store(db, record, 0, [(2, 511.0), (2, 1.0), (2, 1e-6), (2, 3.0), (4, 0.25)])
    finish(db, record, "u8")
    # 511 / 255.5 = 2 a step: 1 is code 0, 3 is code 1, the maximum code 255; nothing lies below code 0.
    codes = rows(db, "SELECT feature, sort_key, stride, code FROM activations_u8 ORDER BY 1, 2")
    assert codes == [  # one window of 64: feature 2 begins at 128, feature 4 at 256
        (2, 128, 64, 255), (2, 129, 64, 0), (2, 130, 64, 0), (2, 131, 64, 1), (4, 260, 64, 255),
    ]  # fmt: skip
    assert rows(db, "SELECT feature, maximum FROM activation_scales ORDER BY 1") == [
        (2, 511.0),
        (4, 0.25),
    ]
    assert value(db, "SELECT count(*) FROM activations_f32") == 0


def test_rows_lie_sorted_by_feature_and_statistics_count_all_shards(db: Db) -> None:
    record = begin(db)
    draw = np.random.default_rng(0)
    made = [
        [(int(f), float(v)) for f, v in zip(draw.integers(0, 6, 40), draw.integers(1, 6, 40), strict=True)]
        for _ in range(19)
    ]
    for number, nonzeros in enumerate(made):
        store(db, record, number, nonzeros)
    finish(db, record, "f32")
    lie = rows(db, "SELECT feature, sort_key FROM activations_f32")
    assert lie == sorted(lie) and len(lie) == 40 * len(made)
    flat = np.array([v for nonzeros in made for f, v in nonzeros if f == 3], dtype=np.float32)
    found = rows(db, "SELECT n_active, mean, maximum, density FROM features WHERE feature = 3")[0]
    assert found[0] == len(flat)
    assert found[1:3] == pytest.approx((flat.mean(dtype=float), flat.max()))
    assert found[3] == pytest.approx(len(flat) / (N_CTX * len(made)))


def test_a_shard_that_fails_leaves_nothing(db: Db) -> None:
    record = begin(db)
    store(db, record, 0, [(1, 1.0)])
    broken = shard(record, 1, [(1, 1.0)])
    broken = replace(broken, windows={**broken.windows, "tokens": [None]})
    with pytest.raises(Exception, match="NOT NULL"):
        write_shard(db, record.key, broken)
    assert value(db, "SELECT count(*) FROM documents") == 1
    store(db, record, 1, [(1, 2.0)])  # the file that was left behind is written again
    finish(db, record, "f32")
    assert rows(db, "SELECT token, value FROM activations ORDER BY 1") == [(0, 1.0), (N_CTX, 2.0)]


def test_a_harvest_that_another_version_began_is_not_gone_on_with(db: Db, tmp_path: Path) -> None:
    record = begin(db)
    db.execute("UPDATE harvests SET settings = ?", [f'{{"n_ctx": {N_CTX}}}'])
    assert begin(db).key == record.key  # nothing is stored yet: nothing to mix
    store(db, record, 0, [(1, 1.0)])
    with pytest.raises(ConfigError, match="begun by another version of Safe-SAIL"):
        begin(db)
    again = open_harvest(db, "h", SUBJECT, [SAE], {"n_ctx": N_CTX}, replace=True)
    assert again.shards == {} and again.key != record.key
    assert not list((tmp_path / "store.duckdb.harvest").rglob("*.run"))
    db.execute("UPDATE harvests SET finished = true, settings = ?", [f'{{"n_ctx": {N_CTX}}}'])
    store(db, again, 0, [(1, 1.0)])
    assert begin(db).finished  # an old one that has ended is as good as any


def test_a_lost_file_is_named_and_nothing_is_marked_as_finished(db: Db, tmp_path: Path) -> None:
    record = begin(db)
    store(db, record, 0, [(1, 1.0)])
    (lost,) = (tmp_path / "store.duckdb.harvest").rglob("*.run")
    kept = lost.read_bytes()
    lost.unlink()
    with pytest.raises(DataError, match=r"0000000\.run is missing"):
        finish(db, record, "f32")
    assert value(db, "SELECT bool_or(finished) FROM harvests") is False
    lost.write_bytes(kept)
    finish(db, record, "f32")
    assert value(db, "SELECT count(*) FROM activations") == 1


def every(n: int, first: int, d_sae: int) -> list[tuple[int, float]]:
    """Token i fires feature (first + 5 i) mod d_sae, at a value that tells them all apart."""
    return [((first + 5 * i) % d_sae, float(1 + first * n + i)) for i in range(n)]


@pytest.mark.parametrize("precision", ["f32", "u8"])
def test_places_ascend_in_the_tables_own_order_and_give_every_token_back(
    db: Db, precision: Precision
) -> None:
    record = begin(db)
    n_windows, d_sae = 9, SAE.d_sae
    for number in range(n_windows):
        store(db, record, number, every(N_CTX, number, d_sae))
    finish(db, record, precision)
    stored = rows(db, f"SELECT feature, sort_key, stride FROM activations_{precision}")
    places = [r[1] for r in stored]
    assert all(a < b for a, b in itertools.pairwise(places)) and len(places) == n_windows * N_CTX
    assert {r[2] for r in stored} == {n_windows * N_CTX}  # narrower, and features would overlap
    assert [r[0] for r in stored] == [p // (n_windows * N_CTX) for p in places]
    for feature in range(d_sae):
        expected = {
            w * N_CTX + i: float(1 + w * N_CTX + i)
            for w in range(n_windows)
            for i in range(N_CTX)
            if (w + 5 * i) % d_sae == feature
        }
        of = "SELECT token, value FROM activations WHERE feature = ? ORDER BY token"
        found = dict(rows(db, of, [feature]))
        assert list(found) == list(expected)
        assert list(found.values()) == pytest.approx(
            list(expected.values()), abs=0 if precision == "f32" else max(expected.values()) / 510
        )


def test_places_of_a_wide_sae_and_a_long_text_do_not_overflow(db: Db) -> None:
    assert begin(db).sae_keys[SAE.sae_id] == 1
    db.execute(
        "INSERT INTO activations_f32 VALUES (1, 2_000_000_000, 2_000_000_000_000_000_070, 1_000_000_000, 1)"
    )
    assert rows(db, "SELECT token, window_id, position FROM activations") == [(70, 1, 6)]


def test_imported_rows_without_a_stride_lie_beside_harvested_ones(db: Db) -> None:
    record = begin(db)
    store(db, record, 0, [(5, 1.0), (2, 3.0), (5, 2.0)])
    finish(db, record, "f32")
    register_sae(db, SaeRecord("theirs", "made", "blocks.0.hook_mlp_out", None, 9, None, None, "x"))
    windows = {
        "d1": [0.0, 4.0],
        "d0": [7.0, 0.0, 8.0],
    }  # one import appends windows in the order of documents
    for document, acts in windows.items():
        table = {
            "sae_id": ["theirs"], "index": [2 if document == "d1" else 8], "split": ["train"],
            "document_id": [document], "start": [0], "maximum": [max(acts)], "tokens": [["t"] * len(acts)],
            "activations": [acts],
        }  # fmt: skip
        begin_import(db)
        assert add_tables(db, {"exemplars": [pa.table(table)]}, ["exemplars"]) == {"exemplars": 1}
    mine = record.sae_keys[SAE.sae_id]
    theirs = value(db, "SELECT sae_key FROM saes WHERE sae_id = 'theirs'")
    assert rows(db, "SELECT sae_key, feature, token, value FROM activations ORDER BY ALL") == [
        (mine, 2, 1, 3.0), (mine, 5, 0, 1.0), (mine, 5, 2, 2.0),
        (theirs, 2, 1, 4.0), (theirs, 8, IMPORT_N_CTX, 7.0), (theirs, 8, IMPORT_N_CTX + 2, 8.0),
    ]  # fmt: skip
    assert rows(db, "SELECT DISTINCT sae_key, stride FROM activations_f32 ORDER BY 1") == [
        (mine, N_CTX),
        (theirs, 0),
    ]
    assert [r[4:] for r in exemplar_rows(db, FeatureId("theirs", 8), 5)] == [([0, 2], [7.0, 8.0])]
    assert [r[4:] for r in exemplar_rows(db, FeatureId(SAE.sae_id, 5), 5)] == [([0, 2], [1.0, 2.0])]


def test_the_view_orders_positions_of_rows_that_lie_in_any_order(db: Db) -> None:
    record = begin(db)
    store(db, record, 0, [(1, 1.0)])
    finish(db, record, "f32")
    key = record.sae_keys[SAE.sae_id]
    db.execute(
        "INSERT INTO activations_f32 VALUES ($k, 4, 9, 0, 1), ($k, 4, 2, 0, 5), ($k, 4, 30, 0, 3)", {"k": key}
    )
    by_sql = 'SELECT positions, activations, maximum FROM exemplars WHERE "index" = 4'
    assert rows(db, by_sql) == [([2, 9, 30], [5.0, 1.0, 3.0], 5.0)]
    assert [r[4:] for r in exemplar_rows(db, FeatureId(SAE.sae_id, 4), 5)] == [([2, 9, 30], [5.0, 1.0, 3.0])]


@pytest.mark.parametrize("precision", ["f32", "u8"])
def test_the_strongest_windows_are_the_same_by_the_library_and_by_the_view(
    db: Db, precision: Precision
) -> None:
    record = begin(db)
    # Feature 3 fires at tokens 0 and 2 of every window, strongest in window 4, equally in windows 1 and 6.
    peaks = [2.0, 5.0, 3.0, 1.0, 9.0, 4.0, 5.0, 0.5]
    for number, peak in enumerate(peaks):
        store(db, record, number, [(3, peak / 4), (1, 100.0), (3, peak)])
    finish(db, record, precision)
    shown = exemplar_rows(db, FeatureId(SAE.sae_id, 3), 4)
    assert [r[0] for r in shown] == ["d4", "d1", "d6", "d5"]
    assert all(r[1:4] == (0, "train", ["t"] * N_CTX) and r[4] == [0, 2] for r in shown)
    error = 0 if precision == "f32" else max(peaks) / 510
    assert [r[5] for r in shown] == [pytest.approx([p / 4, p], abs=error) for p in (9.0, 5.0, 5.0, 4.0)]
    by_sql = rows(
        db,
        "SELECT document_id, 0, split, tokens, positions, activations FROM exemplars"
        ' WHERE sae_id = ? AND "index" = 3 ORDER BY maximum DESC, document_id LIMIT 4',
        [SAE.sae_id],
    )
    assert by_sql == shown
    assert exemplar_rows(db, FeatureId(SAE.sae_id, 0), 4) == []
    assert exemplar_rows(db, FeatureId("another", 3), 4) == []


def test_reading_a_feature_passes_over_other_features_rows(tmp_path: Path) -> None:
    """In sorted rows a feature lies in one row group or two, and the scan knows which without reading."""
    with open_writer(tmp_path / "store.duckdb") as db:
        db.execute(
            "INSERT INTO activations_f32 SELECT 1, i // 50_000, (i // 50_000) * 200_000 + (i % 50_000) * 4, 200_000, 1"
            " FROM range(1_000_000) t(i) ORDER BY 3"
        )
        db.execute("CHECKPOINT")
        plan = rows(
            db, "EXPLAIN ANALYZE SELECT max(token) FROM activations WHERE sae_key = 1 AND feature = 11"
        )[0][1]
        scanned = re.search(r"Row Groups Scanned: (\d+) / (\d+)", plan)
        assert scanned is not None, plan
        assert int(scanned[1]) <= 2 < 8 <= int(scanned[2])
        packed = rows(
            db,
            "SELECT DISTINCT compression FROM pragma_storage_info('activations_f32')"
            " WHERE column_name = 'sort_key' AND segment_type <> 'VALIDITY'",
        )
        assert packed == [("BitPacking",)]
