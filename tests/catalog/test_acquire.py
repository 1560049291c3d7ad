"""Public catalogs by their names, from buckets and repositories on loopback."""

import gzip
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from safesail.catalog.acquire import Acquired, Order, acquire
from safesail.catalog.api import open_catalog
from safesail.catalog.exporting import export_catalog
from safesail.catalog.transfer import InterruptedDownloadError, Patience
from safesail.cli.main import cli
from safesail.domain.ids import FeatureId
from safesail.errors import ConfigError, DataError, NotFoundError
from safesail.store.connection import open_reader
from safesail.store.sql import value
from tests.acquire_kills import acquire_alone, contents, kill_and_resume
from tests.bucket import SOURCE, Bucket, neuronpedia, served

ROOT = f"v1/{SOURCE}"
HASTY = Patience(idle=60, start=120, attempts=2, pause=0.01)


@pytest.fixture
def bucket() -> Generator[Bucket, None, None]:
    with served(neuronpedia(600, windows=2)) as running:
        running.page = 4
        yield running


def get(bucket: Bucket, tmp_path: Path, *kinds: str, **more: Any) -> Acquired:
    order = Order(f"neuronpedia:{SOURCE}", tmp_path / "s.duckdb", None, kinds, bucket.address, **more)
    return acquire(order, patience=HASTY)


def count(store: Path, table: str) -> int:
    with open_reader(store) as db:
        return int(value(db, f"SELECT count(*) FROM {table}"))


def test_a_source_comes_by_its_name_and_is_joined_by_identity(bucket: Bucket, tmp_path: Path) -> None:
    came = get(bucket, tmp_path, "features", "activations")
    assert came.complete and came.report is not None
    assert (came.report.faults, came.report.rows["features"]) == ((), 600)
    assert came.report.rows["explanations"] == 2 * 594, "two explainers, and none for each hundredth feature"
    assert came.report.provenance["licence"] == "not stated"
    assert came.report.provenance["address"] == f"{bucket.address}{ROOT}/"
    (gaps,) = came.gaps
    assert (gaps.explained, gaps.width, gaps.missing, gaps.first_missing) == (
        594,
        16_384,
        15_790,
        (99, 199, 299),
    )
    with open_catalog(tmp_path / "s.duckdb") as catalog:
        shown = catalog.show(FeatureId(SOURCE, 123))
    assert {e.text for e in shown.explanations} == {
        f"words about topic 123 ({by})" for by in ("gpt-4o-mini", "gemini-2.0-flash")}  # fmt: skip
    assert (shown.layer, shown.hook) == (20, "blocks.20.hook_resid_post")
    assert [window.activations for window in shown.windows] == [(0.0, 2.0, 3.5), (0.0, 1.0, 3.5)]


def test_only_what_is_asked_for_comes(bucket: Bucket, tmp_path: Path) -> None:
    came = get(bucket, tmp_path)
    folders = {key.removeprefix(f"{ROOT}/").partition("/")[0] for key, _ in bucket.asked if "batch" in key}
    assert folders == {"explanations", "explanations-gemini-2.0-flash"}
    assert came.report is not None and came.report.rows["exemplars"] == 0
    with pytest.raises(ConfigError, match="--with takes features and activations, not 'logits'"):
        get(bucket, tmp_path, "logits")


def test_a_second_time_only_what_has_changed_comes(bucket: Bucket, tmp_path: Path) -> None:
    get(bucket, tmp_path, "features")
    bucket.asked.clear()
    again = get(bucket, tmp_path, "features")
    assert (again.n_fetched, again.unchanged, bucket.asked) == (0, True, [])
    key = f"{ROOT}/explanations/batch-1.jsonl.gz"
    lines = gzip.decompress(bucket.objects[key]).decode().splitlines()
    changed = {**json.loads(lines[0]), "description": "said anew"}
    bucket.objects[key] = gzip.compress("\n".join([json.dumps(changed), *lines[1:]]).encode())
    once_more = get(bucket, tmp_path, "features")
    assert (once_more.n_fetched, [asked for asked, _ in bucket.asked]) == (1, [key])
    assert once_more.report is not None and once_more.report.new["explanations"] == 1
    assert get(bucket, tmp_path).unchanged, "kinds that were fetched once stay"


def test_what_is_no_longer_offered_goes(bucket: Bucket, tmp_path: Path) -> None:
    folder = get(bucket, tmp_path).folder
    gone = f"{ROOT}/explanations-gemini-2.0-flash"
    bucket.objects = {key: content for key, content in bucket.objects.items() if not key.startswith(gone)}
    get(bucket, tmp_path)
    assert not list((folder / "explanations-gemini-2.0-flash").iterdir())


def test_a_broken_transfer_goes_on_where_it_stopped(bucket: Bucket, tmp_path: Path) -> None:
    bucket.block = 500
    key = f"{ROOT}/explanations/batch-0.jsonl.gz"
    bucket.break_off = {key: 1000}
    assert get(bucket, tmp_path).complete
    assert [start for asked, start in bucket.asked if asked == key] == [0, 1000]


LIES: dict[str, tuple[bytes, str]] = {
    "other bytes of the same length": (b"flip", "the bytes differ from the ETag of the listing"),
    "longer": (b"more", "is larger than the"),
    "shorter": (b"less", "bytes came, the listing says"),
}


@pytest.mark.parametrize("case", LIES)
def test_a_lying_server_is_named_and_nothing_of_the_lie_is_stored(
    case: str, bucket: Bucket, tmp_path: Path
) -> None:
    change, message = LIES[case]
    key = f"{ROOT}/explanations/batch-1.jsonl.gz"
    content = bucket.objects[key]
    altered = {b"flip": content[:50] + bytes([content[50] ^ 1]) + content[51:], b"more": content + b"x",
               b"less": content[:-9]}  # fmt: skip
    bucket.lie[key] = altered[change]
    came = get(bucket, tmp_path)
    assert [lost.path for lost in came.lost] == ["explanations/batch-1.jsonl.gz"]
    assert message in came.lost[0].reason
    assert came.report is not None and came.report.rows["explanations"] == 2 * 594 - 256
    assert came.report.fault("missing batch") == 1
    assert not list(came.folder.rglob("*.part"))
    bucket.lie.clear()
    mended = get(bucket, tmp_path)
    assert mended.complete and mended.report is not None and mended.report.new["explanations"] == 256


def rows_of(bucket: Bucket, key: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(bucket.objects[key]).decode().splitlines()]


def put(bucket: Bucket, key: str, rows: list[dict[str, Any]]) -> None:
    bucket.objects[key] = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())


BAD_BATCHES: dict[str, tuple[dict[str, Any], str]] = {
    "index beyond the width": ({"index": "16384"}, "index 16,384 is beyond the SAE's width 16,384"),
    "of another source": ({"layer": "20-other"}, f"is about gemma-2-2b/20-other, not {SOURCE}"),
    "of another model": ({"modelId": "gpt2"}, "is about gpt2/20-gemmascope-res-16k"),
    "no index": ({"index": "x"}, "index must be a number"),
    "half a character": ({"description": "a \ud800"}, "not valid Unicode"),
}


@pytest.mark.parametrize("case", BAD_BATCHES)
def test_a_bad_batch_is_a_named_row_and_the_others_are_taken(
    case: str, bucket: Bucket, tmp_path: Path
) -> None:
    change, message = BAD_BATCHES[case]
    key = f"{ROOT}/explanations/batch-0.jsonl.gz"
    rows = rows_of(bucket, key)
    put(bucket, key, [*rows[:-1], rows[-1] | change])
    came = get(bucket, tmp_path)
    assert came.report is not None and not came.complete
    (refused,) = came.report.refused
    assert refused.file == "explanations/batch-0.jsonl.gz" and message in refused.reason
    assert came.report.rows["explanations"] == came.report.new["explanations"] == 2 * 594 - 256
    assert [sae.sae_id for sae in stored(tmp_path)] == [SOURCE], "no other SAE was made"


def stored(tmp_path: Path) -> list[Any]:
    from safesail.store.identities import stored_saes

    with open_reader(tmp_path / "s.duckdb") as db:
        return stored_saes(db)


def test_truncated_gzip_reordered_and_repeated_rows(bucket: Bucket, tmp_path: Path) -> None:
    folder = f"{ROOT}/explanations"
    rows = [row for n in range(3) for row in rows_of(bucket, f"{folder}/batch-{n}.jsonl.gz")]
    rows.reverse()
    put(bucket, f"{folder}/batch-0.jsonl.gz", rows[:300] + rows[:40])
    put(bucket, f"{folder}/batch-1.jsonl.gz", rows[300:])
    whole = bucket.objects[f"{ROOT}/explanations-gemini-2.0-flash/batch-2.jsonl.gz"]
    bucket.objects[f"{ROOT}/explanations-gemini-2.0-flash/batch-2.jsonl.gz"] = whole[:-20]
    del bucket.objects[f"{folder}/batch-2.jsonl.gz"]
    features = rows_of(bucket, f"{ROOT}/features/batch-0.jsonl.gz")
    put(bucket, f"{ROOT}/features/batch-0.jsonl.gz", [*features, *features[:7]])
    came = get(bucket, tmp_path, "features")
    assert came.report is not None
    assert {fault.kind: fault.n for fault in came.report.faults} == {"repeated": 40, "repeated feature": 7}
    assert [r.file for r in came.report.refused] == ["explanations-gemini-2.0-flash/batch-2.jsonl.gz"]
    assert "cannot be read" in came.report.refused[0].reason
    assert count(tmp_path / "s.duckdb", "explanations") == 594 + 512


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (b"<html>", "does not answer with a bucket's listing"),
        (b'<!DOCTYPE x [<!ENTITY a "aaaa">]><ListBucketResult/>', "does not answer with a bucket's listing"),
        (b"<ListBucketResult><Contents><Key>K</Key><Size>-5</Size></Contents></ListBucketResult>", "size '-5'"),
        (b"<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>a</NextContinuationToken>"
         b"</ListBucketResult>", "the same page again and again"),
        (b"<ListBucketResult><Contents><Key>../../etc/passwd</Key><Size>5</Size></Contents></ListBucketResult>",
         "has no explanations of"),
    ],
)  # fmt: skip
def test_a_false_listing_is_refused(
    page: bytes, message: str, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tests.bucket

    def listing(_bucket: Bucket, _query: dict[str, list[str]]) -> bytes:
        return page.replace(b"K<", f"{ROOT}/features/x<".encode())

    monkeypatch.setattr(tests.bucket, "listing", listing)
    with pytest.raises(DataError, match=message):
        get(bucket, tmp_path)
    assert not (tmp_path / "s.duckdb").exists()


def test_a_slow_server_is_given_up_and_what_came_is_kept(bucket: Bucket, tmp_path: Path) -> None:
    bucket.block, bucket.seconds_per_block = 32, 0.5
    # A rate that no server here reaches: the file is given up once the first seconds are over, however busy we are.
    slow = Patience(idle=60, start=3, bytes_per_second=1e9, attempts=1)
    order = Order(f"neuronpedia:{SOURCE}", tmp_path / "s.duckdb", address=bucket.address)
    with pytest.raises(InterruptedDownloadError, match="too slow"):
        acquire(order, patience=slow)
    assert not (tmp_path / "s.duckdb").exists()
    bucket.seconds_per_block = 0
    bucket.asked.clear()
    assert get(bucket, tmp_path).complete
    assert any(start for _, start in bucket.asked), "it went on from what had come"


def test_a_server_that_fails_again_and_again_is_left_soon(bucket: Bucket, tmp_path: Path) -> None:
    bucket.fail = lambda key: 503 if "batch" in key else None
    with pytest.raises(InterruptedDownloadError, match=r"nothing came of .*batch-0.*answered 503.*try again"):
        get(bucket, tmp_path)


def test_redirects_are_not_followed_and_unknown_sources_name_near_ones(
    bucket: Bucket, tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError, match=r"no explanations of \S+res-17k; did you mean 'gemma-2-2b/20"):
        acquire(Order("neuronpedia:gemma-2-2b/20-gemmascope-res-17k", address=bucket.address), patience=HASTY)
    for source, message in (
        ("neuronpedia:gemma", "is not neuronpedia:MODEL/SOURCE"), ("neuronpedia:../../x", "is not neuronpedia"),
        ("safe-sail:qwen", r"did you mean 'safe-sail:qwen2\.5-3b'"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            acquire(Order(source, out=tmp_path / "o"))
    with pytest.raises(ConfigError, match="is not https"):
        acquire(Order(f"neuronpedia:{SOURCE}", address="http://example.com/"))


def test_killed_at_random_moments_it_ends_as_if_undisturbed(tmp_path: Path) -> None:
    with served(neuronpedia(300, size=32, windows=1)) as bucket:
        bucket.block, bucket.seconds_per_block = 2048, 0.005

        def order(name: str) -> dict[str, Any]:
            return {"source": f"neuronpedia:{SOURCE}", "into": tmp_path / f"{name}.duckdb",
                    "kinds": ("features", "activations"), "address": bucket.address,
                    "cache": str(tmp_path / name)}  # fmt: skip

        undisturbed = acquire_alone(order("undisturbed"))
        assert undisturbed is not None
        fell = kill_and_resume(order("killed"), undisturbed[0], n_kills=20, seed=1)
        assert acquire_alone(order("killed")) is not None
    assert fell >= 10
    assert contents(tmp_path / "killed.duckdb") == contents(tmp_path / "undisturbed.duckdb")
    left = [path for path in (tmp_path / "killed").rglob("*") if path.name.endswith((".part", ".wal"))]
    assert not left


@pytest.mark.shared
def test_safe_sails_database_by_one_command(shared_dir: Path, tmp_path: Path) -> None:
    english = (shared_dir / "catalogs/safe_sail_qwen2.5_3b/en_db.json").read_bytes()
    both = {key: {**entry, "explanation": f"译文：{entry['explanation']}" if entry["explanation"] else ""}
            for key, entry in json.loads(english).items()}  # fmt: skip
    both["17_12046"] = {"explanation": "只有中文", "correlation_score": 0.4, "tag_list": ["violence"]}
    chinese = json.dumps(both).encode()
    store = tmp_path / "s.duckdb"
    with served({"data/neuron_db/en_db.json": english, "data/neuron_db/cn_db.json": chinese}) as repository:
        command = ["catalog", "download", "safe-sail:qwen2.5-3b", "--into", str(store), "--address",
                   repository.address, "--quiet"]  # fmt: skip
        done = CliRunner().invoke(cli, command)
        assert done.exit_code == 0, done.output
        assert "fault: in one language only, 1 times, such as 17_12046" in done.output
        assert "nothing has changed" in CliRunner().invoke(cli, command).output
        assert len(repository.asked) == 2, "the second time neither was sent again"
    for lang, content in (("en", english), ("zh", chinese)):
        export_catalog(store, tmp_path / f"{lang}.json", "safe-sail", lang=lang)
        assert (tmp_path / f"{lang}.json").read_bytes() == content
    with open_catalog(store) as catalog:
        found = catalog.query("SELECT count(*) AS n, count(DISTINCT sae_id) AS saes FROM features")
    assert (found["n"][0], found["saes"][0]) == (4701, 5)
