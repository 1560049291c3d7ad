"""Damaged, forged and foreign releases are refused with one line, and change nothing."""

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from safesail.catalog.config import ImportOptions, ReleaseOptions
from safesail.catalog.format import TABLES
from safesail.catalog.importing import import_catalog
from safesail.catalog.release import build_release
from safesail.catalog.source import open_source
from safesail.catalog.verify import verify_release
from safesail.errors import (
    ChecksumError,
    DataError,
    FingerprintError,
    NotFoundError,
    SafeSailError,
    SchemaVersionError,
)
from safesail.resources import cache_dir
from tests.release_fuzz import fuzz

Change = Callable[[dict[str, Any]], None]


def reseal(release: Path, name: str) -> None:
    """Make the manifest agree with a changed file, as a forger would."""
    path, manifest = release / name, json.loads((release / "manifest.json").read_text())
    content = path.read_bytes()
    entry = manifest["files"][name]
    entry |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    if name.endswith(".parquet"):
        with suppress(pa.ArrowInvalid), path.open("rb") as stream:
            entry["rows"] = pq.ParquetFile(stream).metadata.num_rows
    (release / "manifest.json").write_text(json.dumps(manifest))


def rewrite(release: Path, table: str, **cells: list[Any]) -> None:
    """Replace columns of a table, with a manifest that agrees."""
    path = release / f"{table}.parquet"
    rows = pq.read_table(path)
    for name, column in cells.items():
        i = rows.schema.get_field_index(name)
        rows = rows.set_column(i, rows.schema.field(i), pa.array(column, rows.schema.field(i).type))
    pq.write_table(rows, path)
    reseal(release, path.name)


def refused(release: Path, kind: type[SafeSailError], message: str, tmp_path: Path) -> None:
    with pytest.raises(kind, match=message) as caught:
        verify_release(release)
    assert "\n" not in str(caught.value)
    store = tmp_path / "untouched.duckdb"
    with pytest.raises(SafeSailError):
        import_catalog(store, release, ImportOptions(name="toy"))
    assert not store.exists()


def setter(*path: str, to: Any) -> Change:
    def change(content: dict[str, Any]) -> None:
        inner: Any = content
        for key in path[:-1]:
            inner = inner[int(key)] if isinstance(inner, list) else inner[key]
        inner[path[-1]] = to

    return change


MANIFESTS: dict[str, tuple[Change, type[SafeSailError], str]] = {
    "newer format": (setter("format_version", to=4), SchemaVersionError, "format 4, this version reads 3"),
    "no version": (setter("format_version", to="1"), DataError, "format_version"),
    "another kind": (setter("format", to="parquet-lake"), DataError, "not the manifest"),
    "wrong sum": (
        setter("files", "scores.parquet", "sha256", to="0" * 64),
        ChecksumError,
        "differs from its SHA-256",
    ),
    "no sum at all": (setter("files", "scores.parquet", "sha256", to="abc"), DataError, "sha256"),
    "wrong size": (setter("files", "tags.parquet", "bytes", to=1), ChecksumError, "the manifest says 1"),
    "negative size": (setter("files", "tags.parquet", "bytes", to=-1), DataError, "bytes"),
    "wrong rows": (setter("files", "tags.parquet", "rows", to=99), DataError, "the manifest says 99"),
    "rows of no table": (setter("files", "README.md", "rows", to=1), DataError, "rows must be"),
    "absurd rows": (setter("files", "tags.parquet", "rows", to=10**12), DataError, "rows"),
    "path upwards": (
        setter("files", "../../evil", to={"sha256": "0" * 64, "bytes": 1}),
        DataError,
        "does not have",
    ),
    "absolute path": (
        setter("files", "/etc/cron.d/x", to={"sha256": "0" * 64, "bytes": 1}),
        DataError,
        "not have",
    ),
    "unknown key": (setter("surprise", to=1), DataError, "surprise"),
    "text for a number": (setter("counts", "features", to="5"), DataError, "features"),
    "too narrow": (setter("saes", "0", "d_sae", to=3), DataError, "k 4 above its width 3"),
    "other SAE": (setter("saes", "0", "sae_id", to="other"), FingerprintError, "not in the manifest"),
    "negative width": (setter("saes", "0", "d_sae", to=-1), DataError, "d_sae"),
    "absurd width": (setter("saes", "0", "d_sae", to=2**62), DataError, "d_sae"),
    "absurd layer": (setter("saes", "0", "layer", to=2**40), DataError, "layer"),
    "absurd depth": (setter("subject_models", "0", "n_layers", to=2**40), DataError, "n_layers"),
    "k above the width": (setter("saes", "0", "k", to=17), DataError, "k 17 above its width 16"),
    "unknown subject model": (
        setter("saes", "0", "model_id", to="other"),
        DataError,
        "does not list the subject model",
    ),
    "false count": (setter("counts", "scored", to=4), DataError, "counts.scored is 4, the tables have 3"),
    "false mean": (setter("counts", "mean_score", to=0.9), DataError, "counts.mean_score is 0.9"),
    "false origins": (setter("origins", to={"toy": 6}), DataError, "origins are not those"),
    "name with a slash": (setter("name", to="../x"), DataError, "name"),
    "a list": (lambda content: content["saes"].append(content["saes"][0]), DataError, "an SAE twice"),
    "file left out": (lambda content: content["files"].pop("tags.parquet"), DataError, "does not list tags"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_forged_manifest_is_refused(
    case: str, release: Path, edit_manifest: Callable[..., None], tmp_path: Path
) -> None:
    change, kind, message = MANIFESTS[case]
    edit_manifest(change)
    refused(release, kind, message, tmp_path)


RAW: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{", "not sound JSON"),
    "not UTF-8": (b"\xff\xfe{}", "not UTF-8"),
    "a list": (b"[]", "not the manifest"),
    "NaN": (b'{"format": "safesail-catalog", "min_score": NaN}', "NaN is not a number"),
    "a huge number": (b'{"format": "safesail-catalog", "x": 1e999}', "too large"),
    "a long number": (b'{"x": ' + b"9" * 30 + b"}", "too large"),
    "a key twice": (b'{"format": "safesail-catalog", "format": "x"}', "there twice"),
    "nested": (b"[" * 100_000, "nested too deeply"),
}


@pytest.mark.parametrize("case", RAW)
def test_a_manifest_that_two_readers_may_read_differently_is_refused(
    case: str, release: Path, tmp_path: Path
) -> None:
    content, message = RAW[case]
    (release / "manifest.json").write_bytes(content)
    refused(release, DataError, message, tmp_path)


TABLES_WITH_FAULTS: dict[str, tuple[str, dict[str, list[Any]], type[SafeSailError], str]] = {
    "index past the width": ("features", {"index": [0, 1, 2, 3, 16]}, FingerprintError, "#16' is beyond the width"),
    "negative index": ("features", {"index": [0, 1, 2, 3, -1]}, DataError, "'index' must not be below 0"),
    "lost feature": ("tags", {"index": [0, 1, 1, 9]}, DataError, "toy-l2#9' is not in release.features"),
    "NaN": ("scores", {"value": [0.1, float("nan"), 0.1, None]}, DataError, "NaN or an infinite"),
    "infinite": ("features", {"density": [0.1] * 4 + [float("inf")]}, DataError, "NaN or an infinite"),
    "no correlation": ("scores", {"value": [0.1, 7.0, 0.1, None]}, DataError, r"must lie in \[-1, 1\]"),
    "density above one": ("features", {"density": [0.1] * 4 + [1.5]}, DataError, r"must lie in \[0, 1\]"),
    "accuracy above one": ("scores", {"auc": [2.0, None, None, None]}, DataError, r"must lie in \[0, 1\]"),
    "score without value or reason": ("scores", {"reason": [None] * 4}, DataError, "neither a value nor a reason"),
    "score of nothing": ("scores", {"explanation_id": ["e0", "e1", "e2", "zz"]}, DataError, "#3' is not in release"),
    "empty key": ("features", {"sae_id": ["toy-l2"] * 4 + [None]}, DataError, "empty cells"),
    "a feature twice": ("features", {"index": [0, 1, 2, 3, 3]}, DataError, "there twice"),
    "masked with text": ("explanations", {"masked": [True] + [False] * 4}, DataError, "marked as masked"),
    "text and error": ("explanations", {"error": ["X", None, None, None, "Y"]}, DataError, "both a text and an error"),
    "odd split": ("exemplars", {"split": ["train", "train", "secret"]}, DataError, "split"),
    "short exemplar": ("exemplars", {"activations": [[1.0], [0.0] * 3, [0.0] * 3]}, DataError, "activation per token"),
    "frequency above one": ("feature_concepts", {"frequency": [5.0]}, DataError, r"'frequency' must lie in \[0, 1\]"),
    "shares above one": ("feature_concepts", {"swapped": [0.3]}, DataError, "shares of the same pairs"),
    "no pairs": ("feature_concepts", {"n_pairs": [0]}, DataError, "'n_pairs' must not be below 1"),
    "dangling concept": ("feature_concepts", {"concept_id": ["zz"]}, DataError, "'zz' is not in release.concepts"),
    "nameless concept": ("concepts", {"name": ["", "slur"]}, DataError, "must not be empty"),
    "confidence 99": ("explanations", {"confidence": [99.0] + [None] * 4}, DataError, r"'confidence' must lie in"),
    "no text and no reason": (
        "explanations", {"text": [None, "b", "c", "d", None]}, DataError, "neither a text nor an error"),
    "low above high": ("scores", {"low": [0.9, 0.3, 0.1, None]}, DataError, "low must not be above high"),
    "negative units": ("scores", {"n_units": [-1, None, None, None]}, DataError, "'n_units' must not be below 0"),
    "negative tokens": ("scores", {"tokens": [-1, None, None, None]}, DataError, "'tokens' must not be below 0"),
    "severity 7": ("tags", {"severity": [7, None, None, None]}, DataError, r"'severity' must lie in \[1, 3\]"),
    "empty tag": ("tags", {"tag": ["", "a", "b", "c"]}, DataError, "a tag must not be empty"),
    "negative count": ("features", {"n_active": [-1] + [10] * 4}, DataError, "'n_active' must not be below 0"),
    "more active than there are": ("features", {"n_active": [101] + [10] * 4}, DataError, "above n_tokens"),
    "false density": ("features", {"density": [0.2] + [0.1] * 4}, DataError, "density must be n_active / n_tokens"),
    "q999 above the maximum": ("features", {"q999": [3.5] + [2.9] * 4}, DataError, "must ascend"),
    "q90 above q99": ("features", {"q90": [2.6] + [2.0] * 4}, DataError, "must ascend"),
    "mean above the maximum": ("features", {"mean": [3.5] + [1.5] * 4}, DataError, "mean must not be above"),
    "another layer": ("features", {"layer": [3] + [2] * 4}, DataError, "'toy-l2#3' is not in saes, by sae_id, layer"),
    "no layer": ("features", {"layer": [None] + [2] * 4}, DataError, "a feature has no layer, and its SAE has"),
    "null top token": ("features", {"top_tokens": [[None]] + [["a"]] * 4}, DataError, "top token must not be null"),
    "false maximum": ("exemplars", {"maximum": [9.0, 2.5, 0.5]}, DataError, "must be the largest activation"),
    "negative activation": (
        "exemplars", {"activations": [[-1.0, 3.0, 1.0], [0.0, 2.5, 0.0], [0.5, 0.0, 0.0]]}, DataError, "from 0"),
    "no tokens": (
        "exemplars", {"tokens": [[], ["a"] * 3, ["a"] * 3], "activations": [[], [0, 2.5, 0], [0.5, 0, 0]]},
        DataError, "1 to 65,536 tokens"),
    "null token": ("exemplars", {"tokens": [[None, "a", "b"], ["a"] * 3, ["a"] * 3]}, DataError, "not be null"),
    "rank 0": ("exemplars", {"rank": [0, 2, 1]}, DataError, "'rank' must not be below 1"),
    "redacted with a text": (
        "features", {"redacted": [True] + [False] * 4, "top_tokens": [None] + [["a"]] * 4},
        DataError, "a redacted feature has a text"),
    "another mean": ("scores", {"value": [0.61, 0.4, 0.2, None]}, DataError, "counts.mean_score is 0.4"),
    "NaN activation": (
        "exemplars", {"activations": [[float("nan")] * 3, [0.0] * 3, [0.0] * 3]}, DataError, "must be a number from 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLES_WITH_FAULTS)
def test_a_forged_table_is_refused(case: str, release: Path, tmp_path: Path) -> None:
    table, cells, kind, message = TABLES_WITH_FAULTS[case]
    rewrite(release, table, **cells)
    refused(release, kind, message, tmp_path)


def test_random_changes_are_refused_with_a_line_or_leave_a_sound_release(
    release: Path, tmp_path: Path
) -> None:
    """The whole of it is `tests/benchmarks/bench_fuzz.py`."""
    outcome = fuzz(release, tmp_path / "cases", 14, range(30), round_trip_every=4)
    assert outcome.clean, outcome
    assert outcome.refused.total() >= 15 and outcome.accepted.total() >= 3
    assert len(outcome.kinds) >= 7 and outcome.round_trips >= 1


def test_other_columns_and_types_are_refused(release: Path, tmp_path: Path) -> None:
    path = release / "tags.parquet"
    rows = pq.read_table(path)
    i = rows.schema.get_field_index("severity")
    pq.write_table(rows.set_column(i, "severity", pa.array(["high"] * 4)), path)
    reseal(release, path.name)
    refused(release, DataError, "column 'severity' is string, the format has int32", tmp_path)
    pq.write_table(rows.drop_columns(["severity"]), path)
    reseal(release, path.name)
    refused(release, DataError, "look at 'severity'", tmp_path)


def test_damage_is_found(release: Path, tmp_path: Path) -> None:
    path = release / "explanations.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    refused(release, ChecksumError, "bytes, the manifest says", tmp_path)
    path.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    refused(release, ChecksumError, "differs from its SHA-256", tmp_path)
    path.write_bytes(b"PAR1" + b"\xff" * 200 + b"PAR1")
    reseal(release, path.name)
    refused(release, DataError, "not a sound Parquet file", tmp_path)
    path.unlink()
    refused(release, ChecksumError, "is missing", tmp_path)


def test_strange_files_and_links_are_refused(release: Path, tmp_path: Path) -> None:
    (release / ".gitattributes").write_text("")
    verify_release(release)
    (release / "setup.py").write_text("")
    refused(release, DataError, "not in the manifest", tmp_path)
    (release / "setup.py").unlink()
    (release / "tags.parquet").rename(tmp_path / "tags.parquet")
    (release / "tags.parquet").symlink_to(tmp_path / "tags.parquet")
    refused(release, DataError, "must be a plain file", tmp_path)


def test_what_is_no_release_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(NotFoundError, match=r"without manifest\.json"):
        verify_release(tmp_path / "folder")
    with pytest.raises(NotFoundError, match="no catalog release"):
        verify_release(tmp_path / "nowhere")


def test_every_table_has_its_rules() -> None:
    from safesail.catalog.format import KEYS, REQUIRED

    assert set(KEYS) == set(REQUIRED) == set(TABLES)
    for table, schema in TABLES.items():
        assert {*KEYS[table], *REQUIRED[table]} <= set(schema.names)


def test_a_release_is_verified_once_and_a_changed_byte_is_noticed(release: Path) -> None:
    with open_source(release):
        pass
    verdicts = list((cache_dir() / "verified").iterdir())
    assert len(verdicts) == 1
    with open_source(release) as db:
        assert db.sql("SELECT count(*) FROM catalog").fetchall() == [(5,)]
        assert (
            "read_parquet"
            in db.sql("SELECT sql FROM duckdb_views() WHERE view_name = 'catalog'").fetchall()[0][0]
        )
    path = release / "explanations.parquet"
    content, before = bytearray(path.read_bytes()), path.stat()
    content[100] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as one who hides it would
    with pytest.raises(ChecksumError, match="differs from its SHA-256"), open_source(release):
        pass
    content[100] ^= 1
    path.write_bytes(content)
    with open_source(release):
        pass


def test_a_release_that_was_touched_a_moment_ago_has_no_verdict_from_that_moment(release: Path) -> None:
    verify_release(release)
    touched = max(f.stat().st_ctime for f in release.iterdir())
    verdicts = list((cache_dir() / "verified").glob("*"))
    assert all(v.stat().st_ctime > touched + 0.1 for v in verdicts)


def test_a_cache_that_cannot_be_written_to_costs_time_alone(
    release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFESAIL_CACHE", "/proc/none")
    for _ in range(2):
        with open_source(release) as db:
            assert db.sql("SELECT count(*) FROM catalog").fetchall() == [(5,)]


def test_a_zip_is_unpacked_once_and_a_changed_one_again(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.zip"
    for version in ("1", "2"):
        build_release(store, path, ReleaseOptions(name="toy", version=version))
        for _ in range(2):
            with open_source(path) as db:
                assert db.sql("SELECT count(*) FROM catalog").fetchall() == [(5,)]
    assert len(list((cache_dir() / "releases").iterdir())) == 2
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"r\.zip is not a sound zip"), open_source(path):
        pass
    assert len(list((cache_dir() / "releases").iterdir())) == 2
