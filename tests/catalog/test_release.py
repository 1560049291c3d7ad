"""Releases: the same bytes, what is in them, and what is withheld."""

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from safesail.catalog.config import ImportOptions, ReleaseOptions
from safesail.catalog.download import download
from safesail.catalog.format import read_manifest, release_digest
from safesail.catalog.importing import import_catalog
from safesail.catalog.release import build_release
from safesail.catalog.verify import verify_release
from safesail.errors import ConfigError, DataError, NotFoundError
from safesail.store.connection import open_writer
from tests.catalog.toy import SAE, TEXTS


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_two_builds_have_the_same_bytes_as_folder_and_as_zip(store: Path, tmp_path: Path) -> None:
    options = ReleaseOptions(name="toy")
    manifests = [build_release(store, tmp_path / name, options) for name in ("a", "b", "a.zip", "b.zip")]
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert len({release_digest(m) for m in manifests}) == 1
    assert (
        release_digest(manifests[0])
        == hashlib.sha256((tmp_path / "a/manifest.json").read_bytes()).hexdigest()
    )


def test_a_release_brought_into_an_empty_store_is_released_again_with_the_same_bytes(
    release: Path, tmp_path: Path
) -> None:
    second = tmp_path / "second.duckdb"
    import_catalog(second, release, ImportOptions(name="toy"))
    build_release(second, tmp_path / "again", ReleaseOptions(name="toy"))
    assert contents(tmp_path / "again") == contents(release)


def test_counts_by_hand(release: Path) -> None:
    counts = verify_release(release).counts
    assert (counts.features, counts.explained, counts.failed, counts.masked) == (5, 4, 1, 0)
    assert (counts.scored, counts.undefined, counts.tagged) == (3, 1, 3)
    assert counts.mean_score == pytest.approx((0.6 + 0.4 + 0.2) / 3)
    assert counts.mean_chance == pytest.approx(0.05)


def test_exemplars_hold_one_activation_a_token_strongest_first(release: Path) -> None:
    found = pd.read_parquet(release / "exemplars.parquet")
    rows = [(r["index"], r["rank"], r["maximum"], list(r["activations"])) for _, r in found.iterrows()]
    assert rows == [(0, 1, 3.0, [0.0, 3.0, 1.0]), (0, 2, 2.5, [0.0, 2.5, 0.0]), (1, 1, 0.5, [0.5, 0.0, 0.0])]


def test_redaction_masks_texts_of_a_domain_and_keeps_scores_and_counts(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "redacted"
    manifest = build_release(store, out, ReleaseOptions(name="toy", redact=("illegal_goods",)))
    verify_release(out)
    texts = pd.read_parquet(out / "explanations.parquet").set_index("index")
    # feature 0 by its leaf smuggling, feature 3 by the domain itself
    assert texts["masked"].to_dict() == {0: True, 1: False, 2: False, 3: True, 4: False}
    assert set(texts["text"].dropna()) == {TEXTS[1], TEXTS[2]}
    assert not set(texts["explanation_id"]) & {"e0", "e3"}, (
        "an id made from the text would let a guess be confirmed"
    )
    scores = pd.read_parquet(out / "scores.parquet").set_index("index")
    assert scores["value"].tolist()[0] == 0.6
    assert set(scores["explanation_id"]) <= set(texts["explanation_id"])
    tokens = pd.read_parquet(out / "features.parquet").set_index("index")["top_tokens"]
    assert tokens.isna().to_dict() == {0: True, 1: False, 2: False, 3: True, 4: False}
    # feature 1 fires in window 0 alone, and feature 0, which is masked, fires strongly there
    assert len(pd.read_parquet(out / "exemplars.parquet")) == 0
    assert (manifest.counts.masked, manifest.counts.explained, manifest.counts.scored) == (2, 2, 3)


def test_min_score_leaves_out_lower_and_undefined_ones(store: Path, tmp_path: Path) -> None:
    build_release(store, tmp_path / "best", ReleaseOptions(name="toy", min_score=0.4, exemplars=0))
    verify_release(tmp_path / "best")
    assert set(pd.read_parquet(tmp_path / "best/features.parquet")["index"]) == {0, 1}
    assert len(pd.read_parquet(tmp_path / "best/exemplars.parquet")) == 0
    assert "selected sample" in (tmp_path / "best/README.md").read_text()


def test_card_states_what_it_must(release: Path) -> None:
    card = (release / "README.md").read_text()
    for said in (
        "Subject model: toy",
        f"SAE: {SAE}: topk, 16 features, at blocks.2.hook_mlp_out",
        "5 features; 4 with a readable explanation, 0 explanations masked, 1 failed; 3 features tagged",
        "3 scores, 1 undefined; mean score 0.400, chance 0.050",
        "Licence: other",
        "Sensitivity: Explanations",
        "## Limits",
    ):
        assert said in card
    assert str(release.parent) not in card + (release / "manifest.json").read_text()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_others_read_it_with_no_code_of_ours(release: Path, tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    read = datasets.load_dataset(str(release), "explanations", cache_dir=str(tmp_path / "hf"))["train"]
    assert read["text"][:4] == list(TEXTS.values())
    default = datasets.load_dataset(str(release), cache_dir=str(tmp_path / "hf"))["train"]
    assert set(default.column_names) >= {"sae_id", "index", "density"}
    best = duckdb.execute(
        f"SELECT text FROM '{release}/explanations.parquet' JOIN '{release}/scores.parquet' USING (explanation_id)"
        " ORDER BY value DESC LIMIT 1"
    ).fetchall()
    assert best == [(TEXTS[0],)]
    assert pd.read_parquet(release / "features.parquet")["density"].tolist() == [0.1] * 5


def test_a_new_build_replaces_a_release_and_nothing_else(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build_release(store, out, ReleaseOptions(name="toy"))
    build_release(store, out, ReleaseOptions(name="toy", version="2"))
    assert read_manifest(out).version == "2"
    other = tmp_path / "precious"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="other things in it"):
        build_release(store, other, ReleaseOptions(name="toy"))
    (tmp_path / "notes.zip").write_text("no zip")
    with pytest.raises(ConfigError, match="no release"):
        build_release(store, tmp_path / "notes.zip", ReleaseOptions(name="toy"))
    assert (other / "thesis.txt").read_text() == "years of work"
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_refusals_leave_nothing(store: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.duckdb"
    with open_writer(empty):
        pass
    with pytest.raises(NotFoundError, match="no explained or tagged feature"):
        build_release(empty, tmp_path / "r", ReleaseOptions(name="toy"))
    with pytest.raises(NotFoundError, match="no feature with that score"):
        build_release(store, tmp_path / "r", ReleaseOptions(name="toy", min_score=0.99))
    with pytest.raises(ConfigError, match="no domain 'cooking'"):
        build_release(store, tmp_path / "r", ReleaseOptions(name="toy", redact=("cooking",)))
    with pytest.raises(NotFoundError, match="no store"):
        build_release(tmp_path / "nowhere.duckdb", tmp_path / "r", ReleaseOptions(name="toy"))
    assert not (tmp_path / "r").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_zip_holds_plain_names_only(store: Path, tmp_path: Path) -> None:
    build_release(store, tmp_path / "r.zip", ReleaseOptions(name="toy"))
    with zipfile.ZipFile(tmp_path / "r.zip") as archive:
        assert set(archive.namelist()) == {
            *json.loads(archive.read("manifest.json"))["files"],
            "manifest.json",
        }
    verify_release(tmp_path / "r.zip")


def test_what_killed_builds_left_is_cleaned_up(store: Path, tmp_path: Path) -> None:
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    for name in (".out.{}.partial", ".out.{}.new", ".out.{}-abc.partial"):
        (tmp_path / name.format(int(gone.stdout))).mkdir()
    (tmp_path / f".out.{int(gone.stdout)}-.old").mkdir()
    build_release(store, tmp_path / "out", ReleaseOptions(name="toy"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "toy.duckdb"]


FULL = """
import resource, sys
from pathlib import Path
from safesail.catalog.config import ReleaseOptions
from safesail.catalog.download import download
from safesail.catalog.release import build_release
from safesail.errors import DataError
store, out, kind = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # a file that grows larger cannot be written
try:
    download(str(store), out, quiet=True) if kind == "download" else build_release(store, out, ReleaseOptions(name="t"))
except DataError as error:
    print(error)
"""


@pytest.mark.parametrize("kind", ["folder", "out.zip", "download"])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    kind: str, store: Path, release: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / ("out.zip" if kind == "out.zip" else "out")
    source = release if kind == "download" else store
    ended = subprocess.run(
        [sys.executable, "-c", FULL, source, out, kind], capture_output=True, text=True, check=True
    )
    assert ended.stdout.startswith(f"cannot write {out}: "), ended.stdout + ended.stderr
    assert ended.stdout.count("\n") == 1
    assert not list(out.parent.iterdir())


def test_a_target_that_cannot_be_written_is_one_line(store: Path, release: Path) -> None:
    for out in (Path("/proc/none/out"), Path("/proc/none/out.zip")):
        with pytest.raises(DataError, match="cannot write /proc/none/out"):
            build_release(store, out, ReleaseOptions(name="toy"))
    with pytest.raises(DataError, match="cannot write /proc/none/out"):
        download(str(release), Path("/proc/none/out"), quiet=True)


def test_a_store_with_a_value_that_no_release_may_have_is_not_released(store: Path, tmp_path: Path) -> None:
    with open_writer(store) as db:
        db.execute("UPDATE explanations SET confidence = 99 WHERE feature = 0")
    with pytest.raises(DataError, match="column 'confidence' must lie in"):
        build_release(store, tmp_path / "out", ReleaseOptions(name="toy"))
    assert not (tmp_path / "out").exists()
