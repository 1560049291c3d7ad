"""A measurement on a store: what is recorded, what a second run does, what is refused."""

import gzip
import json
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from safesail.catalog.config import ImportOptions, ReleaseOptions
from safesail.catalog.diff import diff
from safesail.catalog.exporting import export_catalog
from safesail.catalog.format import FORMAT_VERSION, file_digest
from safesail.catalog.importing import import_catalog
from safesail.catalog.release import build_release
from safesail.catalog.show import render_feature, show_feature
from safesail.catalog.source import open_source
from safesail.catalog.stats import stats
from safesail.catalog.verify import verify_release
from safesail.domain.ids import FeatureId
from safesail.errors import ConfigError, DataError, SaeError
from safesail.intervene import run as run_module
from safesail.intervene.feature import measure_feature
from safesail.intervene.run import InterveneReport, choose_features, run_interventions
from safesail.sae.protocol import SAE, DescribedSae
from safesail.store.connection import open_writer
from safesail.store.sql import Db, rows, value
from safesail.subject.protocol import Subject
from tests.harvest.conftest import write_texts
from tests.intervene.conftest import CONFIG
from tests.pipeline.conftest import Made

Loaded = tuple[Subject, list[SAE]]


def features_of(db: Db) -> list[FeatureId]:
    chosen = rows(db, "SELECT DISTINCT sae_id, feature FROM explanations ORDER BY 1, 2")
    return [FeatureId(str(sae_id), int(j)) for sae_id, j in chosen]


def measure(
    db: Db, loaded: Loaded, features: list[FeatureId] | None = None, **settings: Any
) -> InterveneReport:
    config = CONFIG.model_copy(update=settings)
    return run_interventions(db, *loaded, features or features_of(db), config, quiet=True)


@pytest.fixture
def done(store: Path, loaded: Loaded) -> Path:
    with open_writer(store) as db:
        measure(db, loaded)
    return store


def test_every_effect_stands_beside_its_nulls_or_says_why_not(done: Path) -> None:
    with open_source(done) as db:
        n = value(db, "SELECT count(DISTINCT feature) FROM effects")
        assert n == len(features_of(db)) > 1
        assert value(db, "SELECT count(*) FROM effects WHERE value IS NULL AND reason IS NULL") == 0
        defined = "FROM effects WHERE value IS NOT NULL AND measure NOT IN ('risen', 'output_score')"
        assert value(db, f"SELECT count(*) {defined}") > 5 * n
        for what in ("null_value", "random_value", "gain_low", "gain_high", "p", "q"):
            assert value(db, f"SELECT count(*) {defined} AND {what} IS NULL") == 0, what
        assert rows(db, f"SELECT DISTINCT len(null_values) {defined}") == [(4,)]
        assert value(db, "SELECT min(q - p) FROM effects") >= -1e-9
        assert value(db, "SELECT max(cost) FROM effects WHERE condition = 'steer'") <= CONFIG.max_cost
        assert value(db, "SELECT count(*) FROM logit_lens WHERE len(top_tokens) = 10") == n
        run = rows(db, "SELECT DISTINCT run_id, seed, fingerprint, sae_sha256 FROM effects")
        assert len(run) == 1 and None not in run[0]


def test_a_second_run_measures_only_what_is_new_and_a_killed_one_goes_on(
    store: Path, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []

    def stops(subject: Any, sae: Any, task: Any, *rest: Any) -> Any:
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(task.feature)
        return measure_feature(subject, sae, task, *rest)

    monkeypatch.setattr(run_module, "measure_feature", stops)
    with open_writer(store) as db, pytest.raises(KeyboardInterrupt):
        measure(db, loaded)
    monkeypatch.undo()
    with open_writer(store) as db:
        features = features_of(db)
        assert value(db, "SELECT count(DISTINCT feature) FROM effects") == 2
        assert measure(db, loaded).new == len(features) - 2
        before = rows(db, "SELECT * EXCLUDE (run_id) FROM effects ORDER BY ALL")
        db.execute(
            "UPDATE effects SET p = NULL, q = NULL WHERE measure <> 'output_score'"
        )  # killed before it
        assert measure(db, loaded).new == 0
        assert rows(db, "SELECT * EXCLUDE (run_id) FROM effects ORDER BY ALL") == before
        db.execute("DELETE FROM effects")
        assert measure(db, loaded).new == len(features)
        assert rows(db, "SELECT * EXCLUDE (run_id) FROM effects ORDER BY ALL") == before
        assert measure(db, loaded, features[:1], seed=1).new == 1  # other settings stand beside them


def test_a_change_of_nothing_has_no_effect_at_all(store: Path, loaded: Loaded) -> None:
    with open_writer(store) as db:
        measure(db, loaded, features_of(db)[1:], strength=1e-30)
        steered = rows(db, "SELECT value, null_value FROM effects WHERE condition = 'steer' AND value IS NOT NULL"
                           " AND measure <> 'output_score'")  # fmt: skip
        assert len(steered) >= 10
        assert {0.0} == {abs(number) for row in steered for number in row}
        assert value(db, "SELECT max(abs(value)) FROM effects WHERE condition = 'ablate'") > 0


def test_texts_of_ones_own(store: Path, loaded: Loaded, tmp_path: Path, made: Made) -> None:
    lines = (made.file.parent / "texts.jsonl").read_text().splitlines()
    texts = write_texts(tmp_path / "mine.jsonl", [f"so {json.loads(line)['text']}" for line in lines[:40]])
    with open_writer(store) as db:
        report = measure(db, loaded, texts=(str(texts),))
        assert report.texts_id.startswith("texts:")
        assert value(db, "SELECT count(value) FROM effects WHERE texts = 'firing'") > 0
        silent = write_texts(tmp_path / "silent.jsonl", ["zq"])
        with pytest.raises(ConfigError, match=r"fires nowhere in .*silent.jsonl with 6 tokens before it"):
            measure(db, loaded, texts=(str(silent),))


def test_what_cannot_be_measured_is_one_line(store: Path, loaded: Loaded) -> None:
    subject, (sae,) = loaded
    name = sae.info.sae_id
    with open_writer(store) as db:
        with pytest.raises(ConfigError, match="no SAE 'other' is loaded"):
            measure(db, loaded, [FeatureId("other", 1)])
        with pytest.raises(SaeError, match=f"{name} has an encoder only: there is no direction"):
            measure(db, (subject, [DescribedSae(sae.info)]), [FeatureId(name, 1)])
        elsewhere = copy(sae)
        vars(elsewhere)["info"] = replace(sae.info, hook="blocks.9.hook_mlp_out")
        with pytest.raises(ConfigError, match=r"has no hook 'blocks\.9\.hook_mlp_out'; near names: blocks"):
            measure(db, (subject, [elsewhere]), [FeatureId(name, 1)])
        with pytest.raises(DataError, match=f"there is no {name}#999: the features of {name} are 0 to 39"):
            measure(db, loaded, [FeatureId(name, 999)])
        db.execute("UPDATE features SET density = 0, maximum = NULL WHERE feature = 7")
        with pytest.raises(ConfigError, match=f"{name}#7 never fires in its harvest; choose another"):
            measure(db, loaded, [FeatureId(name, 7)])
        with pytest.raises(ConfigError, match="no feature to measure; name one with --feature"):
            choose_features(db, named=[], concept=None, top=None, sae_id=None)
        with pytest.raises(ConfigError, match=r"no concept 'violence\.kni' in this store; did you mean"):
            choose_features(db, named=[], concept="violence.kni", top=None, sae_id=None)
        assert value(db, "SELECT count(*) FROM effects") == 0


def test_a_feature_that_fires_in_too_few_texts_is_undefined_with_its_reason(
    store: Path, loaded: Loaded
) -> None:
    with open_writer(store) as db:
        measure(db, loaded, features_of(db)[:1], n_texts=3, min_texts=4)
        assert {
            r for (r,) in rows(db, "SELECT DISTINCT reason FROM effects WHERE measure <> 'output_score'")
        } == {"fires in 3 held-out documents with room round it; 4 are needed"}
        assert value(db, "SELECT count(*) FROM feature_effects") == 0


def test_effects_are_shown_counted_compared_and_exported(
    done: Path, store: Path, tmp_path: Path, made: Made
) -> None:
    with open_source(done) as db:
        feature = features_of(db)[0]
        shown = show_feature(db, feature)
        assert shown.effect in ("yes", "no", "not shown")
        text = render_feature(shown).plain
        assert f"shown to do something: {shown.effect}" in text
        assert "ablated on firing text, log-odds of its lens" in text
        assert "logit lens, likelier: " + "  ".join(map(repr, shown.top_lens)) in text
        figures = stats(db).saes[feature.sae_id]
        assert figures.measured == value(db, "SELECT count(effect) FROM catalog") > 0
        assert figures.effective == value(db, "SELECT count(*) FROM catalog WHERE effect = 'yes'")
    assert len(diff(made.out / "safesail.duckdb", done).effects) == figures.measured
    export_catalog(done, tmp_path / "np", "neuronpedia")
    (batch,) = (tmp_path / "np").rglob("features/batch-0.jsonl.gz")
    row = json.loads(gzip.decompress(batch.read_bytes()).splitlines()[0])
    assert len(row["pos_str"]) == len(row["pos_values"]) == len(row["neg_str"]) == 10
    assert row["pos_values"][0] >= row["pos_values"][-1] > row["neg_values"][-1] >= row["neg_values"][0]


def test_releases_hold_effects_and_those_of_format_2_are_read(done: Path, tmp_path: Path) -> None:
    release = tmp_path / "release"
    build_release(done, release, ReleaseOptions(name="small"))
    assert verify_release(release).format_version == FORMAT_VERSION == 3
    with open_source(done) as store, open_source(release) as db:
        of_both = [rows(d, "SELECT * EXCLUDE (run_id) FROM effects ORDER BY ALL") for d in (store, db)]
        assert of_both[0] == of_both[1] != []
        verdicts = [rows(d, "FROM feature_effects ORDER BY ALL") for d in (store, db)]
        assert verdicts[0] == verdicts[1] != []
        assert show_feature(db, features_of(db)[0]).effects
    import_catalog(tmp_path / "second.duckdb", release, ImportOptions(name="small"))
    build_release(tmp_path / "second.duckdb", tmp_path / "again", ReleaseOptions(name="small"))
    assert file_digest(tmp_path / "again/effects.parquet") == file_digest(release / "effects.parquet")
    assert "shown to do something" in (release / "README.md").read_text()

    manifest = json.loads((release / "manifest.json").read_text())
    (release / "effects.parquet").unlink()
    del manifest["files"]["effects.parquet"]
    manifest["format_version"] = 2
    (release / "manifest.json").write_text(json.dumps(manifest))
    assert verify_release(release).format_version == 2
    with open_source(release) as db:
        assert value(db, "SELECT count(effect) FROM catalog") == 0
        assert show_feature(db, features_of(db)[0]).effect is None
    import_catalog(tmp_path / "third.duckdb", release, ImportOptions(name="small"))


@pytest.mark.parametrize(
    ("column", "cell", "says"),
    [
        ("p", 1.5, r"'p' must lie in \[0, 1\]"),
        ("q", 0.0, "q must not be below p"),
        ("gain_low", 1e9, "gain_low must"),
    ],
)
def test_a_release_with_an_impossible_effect_is_refused(
    done: Path, tmp_path: Path, column: str, cell: float, says: str
) -> None:
    release = tmp_path / "release"
    build_release(done, release, ReleaseOptions(name="small"))
    path = release / "effects.parquet"
    effects = pq.read_table(path)
    cells = [cell if given is not None else None for given in effects[column].to_pylist()]
    i = effects.column_names.index(column)
    pq.write_table(effects.set_column(i, effects.schema.field(i), [cells]), path, store_schema=False)
    manifest = json.loads((release / "manifest.json").read_text())
    manifest["files"][path.name] |= {"sha256": file_digest(path), "bytes": path.stat().st_size}
    (release / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=says):
        verify_release(release)
